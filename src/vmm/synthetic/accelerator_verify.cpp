#include <array>

#include "vmm/synthetic/accelerator_driver.h"

// BAR 2, and the check of everything that a device must hold.

namespace handover::vmm::synthetic {

using accelerator::Operation;

namespace {

constexpr std::uint64_t kDomain = 0x57494e44;
/// Of the page that is reached by messages the first words are enough.
constexpr std::uint64_t kMessageBytes = 64;
constexpr std::uint64_t kCounterPatience = 5'000'000'000;

std::uint64_t used_bytes(std::uint32_t page) {
  return page * kPageSize < accelerator::kWindowMappableOffset ? kMessageBytes : kPageSize;
}

}  // namespace

Content AcceleratorDriver::window_content(std::uint32_t page, std::uint32_t generation) const {
  return {Content::Kind::varied, mix(seed(), kDomain, index_, page, generation)};
}

Status AcceleratorDriver::exercise_window() {
  if (device_.window_bar == 0) return {};
  const std::uint64_t choice = context_.registers.next_random();
  const auto page = static_cast<std::uint32_t>((choice >> 8) % kWindowPages);
  if (choice % 8 == 0) HANDOVER_TRY(check_peer((choice >> 16) % context_.registers.device_count));
  return choice % 2 == 0 ? write_window(page) : check_window(page);
}

Status AcceleratorDriver::write_window(std::uint32_t page) {
  HANDOVER_ASSIGN(auto record, load_record<SlotRecord>(window_record(page), "the record of a window page"));
  if (++record.generation == 0) ++record.generation;
  std::array<std::byte, kPageSize> bytes;
  const auto used = std::span(bytes).first(used_bytes(page));
  generate(window_content(page, record.generation), 0, used);
  const Gpa at{device_.window_bar + page * kPageSize};
  if (used.size() == kMessageBytes)
    for (std::size_t i = 0; i < used.size(); i += 8)
      context_.bus.write(at + i, used.subspan(i, 8));
  else
    context_.bus.write(at, used);
  store_record(window_record(page), record);
  ++device_.window_writes;
  return {};
}

Status AcceleratorDriver::check_window(std::uint32_t page) {
  HANDOVER_ASSIGN(const auto record,
                  load_record<SlotRecord>(window_record(page), "the record of a window page"));
  if (record.generation == 0) return {};
  std::array<std::byte, kPageSize> bytes;
  const auto used = std::span(bytes).first(used_bytes(page));
  const Gpa at{device_.window_bar + page * kPageSize};
  if (used.size() == kMessageBytes)
    for (std::size_t i = 0; i < used.size(); i += 8)
      context_.bus.read(at + i, used.subspan(i, 8));
  else
    context_.bus.read(at, used);
  const auto different = compare(window_content(page, record.generation), 0, used);
  if (!different || gone()) return {};
  return wrong(fmt::format(
      "page {} of BAR 2 (generation {}) at guest address {:#x}: expected {:#018x}, got {:#018x}", page,
      record.generation, at.value + different->offset, different->expected, different->got));
}

Status AcceleratorDriver::submit_hashes(Verification& progress) {
  for (; progress.next_slot < slot_count() && outstanding() < kMaxInFlight; ++progress.next_slot) {
    HANDOVER_ASSIGN(const auto record,
                    load_record<SlotRecord>(slot_record(progress.next_slot), "the record of a slot"));
    // Nothing is known of a slot that was never written.
    if (record.generation == 0) continue;
    HANDOVER_TRY(submit_read(progress.next_slot, Operation::hash, true));
    ++progress.slots_checked;
  }
  if (progress.next_slot == slot_count() && !progress.staging_asked && outstanding() < kMaxInFlight) {
    progress.staging_asked = true;
    HANDOVER_ASSIGN(const bool submitted, submit_staged_hash());
    if (submitted) ++progress.slots_checked;
  }
  return {};
}

Result<bool> AcceleratorDriver::verify(Verification& progress) {
  if (!running()) return true;
  enum : std::uint32_t { drain, hash, rest };
  switch (progress.stage) {
    case drain: {
      if (outstanding() > 0) return false;
      const std::uint32_t counted = read32(accelerator::reg::kCompleted);
      if (gone()) return true;
      if (counted != static_cast<std::uint32_t>(device_.completed)) {
        // The device may count a moment after it wrote the record.
        const std::uint64_t now = context_.registers.clock;
        if (progress.waiting_since == 0) progress.waiting_since = now;
        if (now - progress.waiting_since < kCounterPatience) return false;
        HANDOVER_TRY(
            wrong(fmt::format("its count of completions: expected {}, got {}", device_.completed, counted)));
      }
      progress.stage = hash;
      return false;
    }
    case hash: {
      const std::uint64_t before = device_.submitted;
      const Status submitted = submit_hashes(progress);
      // Also after a failure: what is in the ring by then is to be done.
      const Status rung = device_.submitted != before ? ring_doorbell() : Status{};
      HANDOVER_TRY(submitted);
      HANDOVER_TRY(rung);
      if (progress.staging_asked && outstanding() == 0) progress.stage = rest;
      return false;
    }
    default:
      for (std::uint32_t entry = 0; entry < kArchiveEntries; ++entry)
        HANDOVER_TRY(check_archive(entry));
      if (device_.window_bar != 0)
        for (std::uint32_t page = 0; page < kWindowPages && running(); ++page)
          HANDOVER_TRY(check_window(page));
      for (std::uint32_t peer = 0; peer < context_.registers.device_count; ++peer)
        HANDOVER_TRY(check_peer(peer));
      return true;
  }
}

}  // namespace handover::vmm::synthetic
