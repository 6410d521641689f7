#include "vmm/address_space.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "handover/base/guarded_copy.h"
#include "handover/memory/guest_race.h"

namespace handover::vmm {
namespace {

// Bytes from `at` until `start` begins, if it lies ahead.
void stop_before(std::uint64_t at, std::uint64_t start, std::uint64_t& length) {
  if (start > at) length = std::min(length, start - at);
}

}  // namespace

AddressSpace::Piece AddressSpace::locate(std::uint64_t at, std::uint64_t length) const {
  Piece piece;
  piece.length = std::min(length, std::numeric_limits<std::uint64_t>::max() - at);
  if (piece.length == 0) piece.length = length;  // the last byte of the address space
  for (const auto& range : memory_.ranges()) {
    if (at >= range.start.value && at - range.start.value < range.size) {
      const std::uint64_t offset = at - range.start.value;
      piece.bytes = range.block->data() + range.offset + offset;
      piece.ram = true;
      piece.length = std::min(length, range.size - offset);
      return piece;
    }
    stop_before(at, range.start.value, piece.length);
  }
  for (const auto& window : windows_) {
    if (at >= window.start && at - window.start < window.size) {
      piece.offset = at - window.start;
      piece.length = std::min(piece.length, window.size - piece.offset);
      if (window.direct)
        piece.bytes = window.direct + piece.offset;
      else
        piece.window = &window;
      return piece;
    }
    stop_before(at, window.start, piece.length);
  }
  return piece;
}

void AddressSpace::read(Gpa at, std::span<std::byte> to) {
  while (!to.empty()) {
    const Piece piece = locate(at.value, to.size());
    const auto part = to.first(piece.length);
    if (piece.ram) {
      const GuestRace race;
      std::memcpy(part.data(), piece.bytes, part.size());
    } else if (piece.bytes) {
      if (!guarded_read(part, piece.bytes)) std::ranges::fill(part, std::byte{0xff});
    } else if (piece.window) {
      piece.window->handler->read(piece.offset, part);
    } else {
      std::ranges::fill(part, std::byte{0xff});
    }
    to = to.subspan(piece.length);
    at.value += piece.length;
  }
}

void AddressSpace::write(Gpa at, std::span<const std::byte> from) {
  while (!from.empty()) {
    const Piece piece = locate(at.value, from.size());
    const auto part = from.first(piece.length);
    if (piece.ram) {
      {
        const GuestRace race;
        std::memcpy(piece.bytes, part.data(), part.size());
      }
      memory_.mark_written(at, part.size());
    } else if (piece.bytes) {
      guarded_write(piece.bytes, part);  // where it fails there is nothing to write to
    } else if (piece.window) {
      piece.window->handler->write(piece.offset, part);
    }
    from = from.subspan(piece.length);
    at.value += piece.length;
  }
}

void AddressSpace::add_window(const void* owner, Gpa start, std::uint64_t size, MmioHandler& handler) {
  std::lock_guard lock(changing_);
  if (size > 0) windows_.push_back({owner, start.value, size, &handler, nullptr});
}

void AddressSpace::add_direct_window(const void* owner, Gpa start, std::span<std::byte> bytes) {
  std::lock_guard lock(changing_);
  if (!bytes.empty()) windows_.push_back({owner, start.value, bytes.size(), nullptr, bytes.data()});
}

void AddressSpace::remove_windows(const void* owner) {
  const auto owned = [owner](const Window& window) { return window.owner == owner; };
  std::lock_guard lock(changing_);
  // A device that was withdrawn before may be taken down while the guest runs, and then nothing is written
  // here.
  if (std::ranges::any_of(windows_, owned)) std::erase_if(windows_, owned);
}

}  // namespace handover::vmm
