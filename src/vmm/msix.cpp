#include "vmm/msix.h"

#include <algorithm>

#include "handover/base/byte_order.h"
#include "handover/base/units.h"

namespace handover::vmm {
namespace {

// PCI Local Bus 3.0, 6.8.2.6 to 6.8.2.9: offsets in an entry, and the only bit of vector control.
constexpr std::size_t kAddress = 0;
constexpr std::size_t kData = 8;
constexpr std::size_t kVectorControl = 12;
constexpr std::uint32_t kVectorMasked = 1;

}  // namespace

MsixTable::MsixTable(std::uint32_t vectors, InterruptSink& sink)
    : vectors_(vectors),
      sink_(sink),
      table_(std::size_t{vectors} * kEntryBytes),
      pending_((std::size_t{vectors} + 7) / 8) {
  for (std::uint32_t vector = 0; vector < vectors; ++vector)
    store_le(table_.data() + vector * kEntryBytes + kVectorControl, kVectorMasked);
}

void MsixTable::read_table(std::uint64_t offset, std::span<std::byte> to) const {
  std::ranges::fill(to, std::byte{0});
  std::lock_guard lock(mutex_);
  if (range_fits(offset, to.size(), table_.size()))
    std::copy_n(table_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
}

void MsixTable::write_table(std::uint64_t offset, std::span<const std::byte> from) {
  std::lock_guard lock(mutex_);
  if (!range_fits(offset, from.size(), table_.size())) return;
  std::ranges::copy(from, table_.begin() + static_cast<std::ptrdiff_t>(offset));
  deliver_pending();
}

void MsixTable::read_pending(std::uint64_t offset, std::span<std::byte> to) const {
  std::ranges::fill(to, std::byte{0});
  std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < to.size() && offset < pending_.size(); ++i, ++offset)
    to[i] = pending_[offset];
}

void MsixTable::set_control(std::uint16_t control) {
  std::lock_guard lock(mutex_);
  control_ = control;
  if ((control_ & kControlEnable) == 0)
    std::ranges::fill(pending_, std::byte{0});
  else
    deliver_pending();
}

bool MsixTable::enabled() const {
  std::lock_guard lock(mutex_);
  return (control_ & kControlEnable) != 0;
}

void MsixTable::raise(std::uint32_t vector) {
  std::lock_guard lock(mutex_);
  if (vector >= vectors_ || (control_ & kControlEnable) == 0) return;
  if (deliverable(vector))
    deliver(vector);
  else
    set_pending(vector, true);
}

void MsixTable::freeze() {
  std::lock_guard lock(mutex_);
  frozen_ = true;
}

void MsixTable::thaw() {
  std::lock_guard lock(mutex_);
  frozen_ = false;
  deliver_pending();
}

void MsixTable::copy_out(std::span<std::byte> table, std::span<std::byte> pending) const {
  std::lock_guard lock(mutex_);
  std::ranges::copy(table_, table.begin());
  std::ranges::copy(pending_, pending.begin());
}

void MsixTable::restore(std::span<const std::byte> table, std::span<const std::byte> pending) {
  std::lock_guard lock(mutex_);
  std::ranges::copy(table, table_.begin());
  std::ranges::copy(pending, pending_.begin());
  // Bits of vectors that do not exist mean nothing.
  if (vectors_ % 8 != 0) pending_.back() &= std::byte((1u << (vectors_ % 8)) - 1);
}

bool MsixTable::deliverable(std::uint32_t vector) const {
  if (frozen_ || (control_ & kControlEnable) == 0 || (control_ & kControlMaskAll) != 0) return false;
  return (load_le<std::uint32_t>(table_.data() + vector * kEntryBytes + kVectorControl) & kVectorMasked) == 0;
}

void MsixTable::deliver(std::uint32_t vector) {
  const std::byte* entry = table_.data() + vector * kEntryBytes;
  sink_.message(load_le<std::uint64_t>(entry + kAddress), load_le<std::uint32_t>(entry + kData));
}

void MsixTable::deliver_pending() {
  for (std::uint32_t vector = 0; vector < vectors_; ++vector) {
    if (!pending(vector) || !deliverable(vector)) continue;
    set_pending(vector, false);
    deliver(vector);
  }
}

bool MsixTable::pending(std::uint32_t vector) const {
  return (pending_[vector / 8] & std::byte(1u << (vector % 8))) != std::byte{0};
}

void MsixTable::set_pending(std::uint32_t vector, bool on) {
  const std::byte bit{static_cast<unsigned char>(1u << (vector % 8))};
  if (on)
    pending_[vector / 8] |= bit;
  else
    pending_[vector / 8] &= ~bit;
}

}  // namespace handover::vmm
