#include "devices/accelerator/registers.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace handover::accelerator {
namespace {

constexpr std::uint32_t low(std::uint64_t value) {
  return static_cast<std::uint32_t>(value);
}
constexpr std::uint32_t high(std::uint64_t value) {
  return static_cast<std::uint32_t>(value >> 32);
}
constexpr std::uint64_t with_low(std::uint64_t value, std::uint32_t part) {
  return (value & 0xffffffff00000000) | part;
}
constexpr std::uint64_t with_high(std::uint64_t value, std::uint32_t part) {
  return (value & 0xffffffff) | std::uint64_t{part} << 32;
}

bool well_formed(std::uint64_t offset, std::size_t width) {
  return (width == 4 || width == 8) && offset % width == 0;
}

}  // namespace

bool Registers::ring_usable() const {
  if (ring_entries < 2 || ring_entries > kMaxRingEntries || !std::has_single_bit(ring_entries)) return false;
  constexpr auto kTop = std::numeric_limits<std::uint64_t>::max();
  return ring_address <= kTop - ring_entries * sizeof(Descriptor) &&
         completion_address <= kTop - ring_entries * sizeof(CompletionRecord);
}

std::uint64_t Registers::descriptor_address() const {
  return ring_address + completed % ring_entries * sizeof(Descriptor);
}

std::uint64_t Registers::record_address() const {
  return completion_address + completed % ring_entries * sizeof(CompletionRecord);
}

std::uint64_t Registers::read(std::uint64_t offset, std::size_t width, std::uint64_t memory_size,
                              bool draining) const {
  if (!well_formed(offset, width)) return std::numeric_limits<std::uint64_t>::max();
  std::uint64_t value = read_cell(offset, memory_size, draining);
  if (width == 8) value |= std::uint64_t{read_cell(offset + 4, memory_size, draining)} << 32;
  return value;
}

std::uint32_t Registers::read_cell(std::uint64_t offset, std::uint64_t memory_size, bool draining) const {
  switch (offset) {
    case reg::kId:
      return kIdValue;
    case reg::kVersion:
      return 1;
    case reg::kStatus:
      return kStatusReady | (enabled() || draining ? kStatusEnabled : 0) | (error ? kStatusError : 0);
    case reg::kControl:
      return control;
    case reg::kMemorySize:
      return low(memory_size);
    case reg::kMemorySize + 4:
      return high(memory_size);
    case reg::kRingAddress:
      return low(ring_address);
    case reg::kRingAddress + 4:
      return high(ring_address);
    case reg::kCompletionAddress:
      return low(completion_address);
    case reg::kCompletionAddress + 4:
      return high(completion_address);
    case reg::kRingEntries:
      return ring_entries;
    case reg::kCompleted:
      return completed;
    case reg::kJobsDone:
      return low(jobs_done);
    case reg::kJobsDone + 4:
      return high(jobs_done);
    case reg::kInterruptsRaised:
      return low(interrupts_raised);
    case reg::kInterruptsRaised + 4:
      return high(interrupts_raised);
    default:
      return 0;
  }
}

Registers::Effect Registers::write(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  if (!well_formed(offset, width)) return Effect::none;
  const Effect first = write_cell(offset, low(value));
  if (width == 4) return first;
  return std::max(first, write_cell(offset + 4, high(value)));
}

Registers::Effect Registers::write_cell(std::uint64_t offset, std::uint32_t value) {
  if (offset == reg::kControl) return write_control(value);
  if (offset == reg::kDoorbell) {
    if (!enabled() || error) return Effect::none;
    submitted = value;
    // More than the ring holds cannot have been submitted; this also catches a count that went back.
    error = submitted - completed > ring_entries + (completing ? 1 : 0);
    return error ? Effect::drop : Effect::look;
  }
  if (enabled()) return Effect::none;
  switch (offset) {
    case reg::kRingAddress:
      ring_address = with_low(ring_address, value);
      break;
    case reg::kRingAddress + 4:
      ring_address = with_high(ring_address, value);
      break;
    case reg::kCompletionAddress:
      completion_address = with_low(completion_address, value);
      break;
    case reg::kCompletionAddress + 4:
      completion_address = with_high(completion_address, value);
      break;
    case reg::kRingEntries:
      ring_entries = value;
      break;
    default:
      break;
  }
  return Effect::none;
}

Registers::Effect Registers::write_control(std::uint32_t value) {
  const bool was_enabled = enabled();
  control = value & (kControlEnable | kControlInterrupt);
  if (was_enabled == enabled()) return Effect::none;
  error = false;
  if (!enabled()) return Effect::drop;
  submitted = 0;
  completed = 0;
  error = !ring_usable();
  return Effect::look;
}

}  // namespace handover::accelerator
