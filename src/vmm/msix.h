#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/interrupt_sink.h"

namespace handover::vmm {

/// A device's MSI-X table and pending bits, as the VMM emulates them; the device never sees either.
///
/// An interrupt goes to the sink as the message of its vector.  If it cannot (function or vector masked, or
/// frozen because the machine is stopped) it becomes a pending bit, and goes out when that ends.  While
/// frozen nothing reaches the sink any more, so what has been saved of the guest's interrupt controller
/// stays true.
///
/// Any thread; one leaf lock, under which only the sink is called.  Starts frozen and disabled.
class MsixTable {
 public:
  static constexpr std::uint32_t kEntryBytes = 16;
  static constexpr std::uint16_t kControlEnable = 0x8000;
  static constexpr std::uint16_t kControlMaskAll = 0x4000;

  MsixTable(std::uint32_t vectors, InterruptSink& sink);

  std::uint32_t vectors() const { return vectors_; }
  std::size_t table_bytes() const { return table_.size(); }
  /// ceil(n / 8), as in the stream.
  std::size_t pending_bytes() const { return pending_.size(); }

  /// Guest accesses; a range that does not fit reads as zeros and writes nothing.
  void read_table(std::uint64_t offset, std::span<std::byte> to) const;
  void write_table(std::uint64_t offset, std::span<const std::byte> from);
  void read_pending(std::uint64_t offset, std::span<std::byte> to) const;

  /// The capability's message control register: enable and mask-all bits.
  void set_control(std::uint16_t control);
  bool enabled() const;

  /// The device raised the vector.  Without effect while MSI-X is off, as in hardware.
  void raise(std::uint32_t vector);
  void freeze();
  void thaw();

  /// Copies for the stream.  restore() takes sizes of exactly table_bytes() and pending_bytes().
  void copy_out(std::span<std::byte> table, std::span<std::byte> pending) const;
  void restore(std::span<const std::byte> table, std::span<const std::byte> pending);

 private:
  bool deliverable(std::uint32_t vector) const;
  void deliver(std::uint32_t vector);
  void deliver_pending();
  bool pending(std::uint32_t vector) const;
  void set_pending(std::uint32_t vector, bool on);

  const std::uint32_t vectors_;
  InterruptSink& sink_;
  mutable std::mutex mutex_;
  std::vector<std::byte> table_;
  std::vector<std::byte> pending_;
  std::uint16_t control_ = 0;
  bool frozen_ = true;
};

}  // namespace handover::vmm
