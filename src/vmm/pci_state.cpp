#include <algorithm>

#include "vmm/pci_device.h"

// A device's PCI state in QEMU's layout: be32 2, the config space, four be32 of interrupt lines, then with
// MSI-X of n vectors 16 * n bytes of table and ceil(n / 8) bytes of pending bits.

namespace handover::vmm {
namespace {

constexpr std::uint32_t kStateVersion = 2;
constexpr std::uint32_t kInterruptLines = 4;

std::uint16_t word(std::span<const std::byte> bytes, std::uint32_t at) {
  return load_le<std::uint16_t>(bytes.data() + at);
}
std::uint32_t long_word(std::span<const std::byte> bytes, std::uint32_t at) {
  return load_le<std::uint32_t>(bytes.data() + at);
}

}  // namespace

Status PciDevice::save(StreamWriter& out) {
  // The copy, not the device: a device in STOP_COPY may refuse every region access.
  out.be32(kStateVersion);
  out.bytes(config_.bytes());
  for (std::uint32_t line = 0; line < kInterruptLines; ++line)
    out.be32(intx_ && intx_->level() && line == interrupt_pin() ? 1 : 0);
  if (msix_) {
    std::vector<std::byte> table(msix_->table_bytes());
    std::vector<std::byte> pending(msix_->pending_bytes());
    msix_->copy_out(table, pending);
    out.bytes(table);
    out.bytes(pending);
  }
  return out.status();
}

Status PciDevice::load(StreamReader& in) {
  HANDOVER_ASSIGN_CONTEXT(const std::uint32_t version, in.be32(), "device `{}`: version of its PCI state",
                          device_.id());
  if (version != kStateVersion)
    return fail(Errc::protocol, "device `{}`: its PCI state has version {}; only {} is known", device_.id(),
                version, kStateVersion);
  std::vector<std::byte> theirs(config_.size());
  HANDOVER_TRY_CONTEXT(in.bytes(theirs), "device `{}`: its config space", device_.id());
  HANDOVER_TRY(check_identity(theirs));
  bool level = false;
  for (std::uint32_t line = 0; line < kInterruptLines; ++line) {
    HANDOVER_ASSIGN_CONTEXT(const std::uint32_t raised, in.be32(), "device `{}`: its interrupt lines",
                            device_.id());
    if (raised == 0) continue;
    if (raised != 1 || !intx_ || line != interrupt_pin())
      return fail(Errc::protocol, "device `{}` has its interrupt line INT{} at {} in the stream; {}",
                  device_.id(), static_cast<char>('A' + line), raised,
                  intx_ ? fmt::format("here it uses INT{}", static_cast<char>('A' + interrupt_pin()))
                        : "here it has none");
    level = true;
  }
  if (intx_) intx_->restore(level);
  if (msix_) {
    std::vector<std::byte> table(msix_->table_bytes());
    std::vector<std::byte> pending(msix_->pending_bytes());
    HANDOVER_TRY_CONTEXT(in.bytes(table), "device `{}`: its MSI-X table", device_.id());
    HANDOVER_TRY_CONTEXT(in.bytes(pending), "device `{}`: its pending interrupts", device_.id());
    msix_->restore(table, pending);
  }
  adopt(theirs);
  return {};
}

Status PciDevice::check_identity(std::span<const std::byte> theirs) const {
  const auto ours = config_.bytes();
  if (word(ours, pci::kVendorId) != word(theirs, pci::kVendorId) ||
      word(ours, pci::kDeviceId) != word(theirs, pci::kDeviceId))
    return fail(Errc::mismatch, "device `{}` is {:04x}:{:04x} here and {:04x}:{:04x} in the stream",
                device_.id(), word(ours, pci::kVendorId), word(ours, pci::kDeviceId),
                word(theirs, pci::kVendorId), word(theirs, pci::kDeviceId));
  struct Same {
    const char* what;
    std::uint32_t here, there;
  };
  const std::uint32_t ours_class = long_word(ours, pci::kRevision);
  const std::uint32_t theirs_class = long_word(theirs, pci::kRevision);
  const Same sames[] = {
      {"class code", ours_class >> 8, theirs_class >> 8},
      {"revision", ours_class & 0xff, theirs_class & 0xff},
      {"subsystem", long_word(ours, pci::kSubsystemVendor), long_word(theirs, pci::kSubsystemVendor)},
      {"header type", std::to_integer<std::uint32_t>(ours[pci::kHeaderType]),
       std::to_integer<std::uint32_t>(theirs[pci::kHeaderType])},
      {"list of capabilities", std::to_integer<std::uint32_t>(ours[pci::kCapabilities]),
       std::to_integer<std::uint32_t>(theirs[pci::kCapabilities])},
      {"interrupt pin", std::to_integer<std::uint32_t>(ours[pci::kInterruptPin]),
       std::to_integer<std::uint32_t>(theirs[pci::kInterruptPin])},
  };
  for (const auto& same : sames)
    if (same.here != same.there)
      return fail(Errc::mismatch, "device `{}` has {} {:#x} here and {:#x} in the stream", device_.id(),
                  same.what, same.here, same.there);
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    const BarDecode bar = config_.bar(i);
    if (bar.size == 0) continue;
    const std::uint32_t at = pci::kBar0 + 4 * i;
    const std::uint32_t type_mask = bar.memory ? pci::kBarTypeMask : pci::kBarIoTypeMask;
    if ((long_word(ours, at) & type_mask) != (long_word(theirs, at) & type_mask))
      return fail(Errc::mismatch, "device `{}` has BAR {} of type {:#x} here and {:#x} in the stream",
                  device_.id(), i, long_word(ours, at) & type_mask, long_word(theirs, at) & type_mask);
  }
  if (const std::uint32_t at = config_.msix(); at != 0) {
    const auto id = std::to_integer<unsigned>(theirs[at]);
    const unsigned here = (config_.msix_control() & pci::kMsixSizeMask) + 1u;
    const unsigned there =
        id == pci::kCapabilityMsix ? (word(theirs, at + pci::kMsixControl) & pci::kMsixSizeMask) + 1u : 0;
    if (here != there)
      return fail(Errc::mismatch, "device `{}` has {} MSI-X vectors here and {} in the stream", device_.id(),
                  here, there);
  }
  return {};
}

// What a guest may have written; the rest of our copy says what the local device is, and stays.
void PciDevice::adopt(std::span<const std::byte> theirs) {
  auto take = [&](std::uint32_t at, std::uint32_t bytes) {
    config_.write_emulated(at, theirs.subspan(at, bytes));
  };
  take(pci::kCommand, 2);
  take(pci::kBar0, 4 * pci::kBars);
  if (config_.msix() != 0) take(config_.msix() + pci::kMsixControl, 2);
  config_.learn(pci::kCacheLineSize, theirs.subspan(pci::kCacheLineSize, 2));
  config_.learn(pci::kInterruptLine, theirs.subspan(pci::kInterruptLine, 1));
}

Status PciDevice::apply() {
  auto put = [this](std::uint32_t at, std::uint32_t bytes) -> Status {
    HANDOVER_TRY_CONTEXT(device_.region_write(vfio::kRegionConfig, at, config_.bytes().subspan(at, bytes)),
                         "device `{}`: restoring its config register {:#x}", device_.id(), at);
    return {};
  };
  HANDOVER_TRY(put(pci::kCacheLineSize, 1));
  HANDOVER_TRY(put(pci::kLatencyTimer, 1));
  HANDOVER_TRY(put(pci::kInterruptLine, 1));
  HANDOVER_TRY(put(pci::kCommand, 2));
  update_windows();
  // Before any device runs, and while a failure can still be told to the source.
  if (wiring_.peers) HANDOVER_TRY(wiring_.peers->sync());
  if (intx_) intx_->set_disabled((config_.command() & pci::kCommandIntxDisable) != 0);
  if (!msix_) return {};
  HANDOVER_TRY(put(config_.msix() + pci::kMsixControl, 2));
  msix_->set_control(config_.msix_control());
  return use_interrupts((config_.msix_control() & MsixTable::kControlEnable) != 0);
}

}  // namespace handover::vmm
