#include "vmm/synthetic/pci_setup.h"

#include <algorithm>

#include "vmm/config_space.h"
#include "vmm/msix.h"

namespace handover::vmm::synthetic {

std::vector<std::uint32_t> PciSetup::find(std::uint16_t vendor, std::uint16_t device) {
  std::vector<std::uint32_t> slots;
  for (std::uint32_t slot = 1; slot < kPciSlots; ++slot)
    if (bus_.load<std::uint32_t>(at(slot, pci::kVendorId)) == (vendor | std::uint32_t{device} << 16))
      slots.push_back(slot);
  return slots;
}

// A BAR that we place is below 4 GiB, so the low half tells its size.
std::uint64_t PciSetup::size_bar(Gpa reg, std::uint32_t type_mask) {
  bus_.store<std::uint32_t>(reg, 0xffffffff);
  const std::uint32_t mask = bus_.load<std::uint32_t>(reg) & ~type_mask;
  bus_.store<std::uint32_t>(reg, 0);
  return mask == 0 ? 0 : std::uint64_t{~mask} + 1;
}

bool PciSetup::place_bars(std::uint32_t slot) {
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    const Gpa reg = at(slot, pci::kBar0 + 4 * i);
    const auto type = bus_.load<std::uint32_t>(reg);
    const bool io = (type & pci::kBarIo) != 0;
    const bool wide = !io && (type & pci::kBar64) != 0 && i + 1 < pci::kBars;
    const std::uint64_t size = size_bar(reg, io ? pci::kBarIoTypeMask : pci::kBarTypeMask);
    if (wide) ++i;
    if (size == 0) continue;
    auto& next = io ? next_port_ : next_;
    const std::uint64_t start = align_up(next, size);
    if (!range_fits(start, size, io ? kPorts : kEcamBase)) return false;
    bus_.store<std::uint32_t>(reg, static_cast<std::uint32_t>(start));
    if (wide) bus_.store<std::uint32_t>(reg + 4, 0);
    next = io ? start + size : align_up(start + size, kPageSize);
  }
  bus_.store<std::uint16_t>(at(slot, pci::kCommand), pci::kCommandIo | pci::kCommandMemory |
                                                         pci::kCommandBusMaster | pci::kCommandIntxDisable);
  return true;
}

std::uint64_t PciSetup::bar(std::uint32_t slot, std::uint32_t index) {
  return bus_.load<std::uint32_t>(at(slot, pci::kBar0 + 4 * index)) & ~pci::kBarTypeMask;
}

std::uint64_t PciSetup::ports(std::uint32_t slot, std::uint32_t index) {
  const auto value = bus_.load<std::uint32_t>(at(slot, pci::kBar0 + 4 * index));
  const std::uint32_t port = value & ~pci::kBarIoTypeMask;
  return (value & pci::kBarIo) != 0 && port != 0 && port < kPorts ? kPortBase.value + port : 0;
}

void PciSetup::enable_line(std::uint32_t slot) {
  const auto command = bus_.load<std::uint16_t>(at(slot, pci::kCommand));
  bus_.store<std::uint16_t>(at(slot, pci::kCommand),
                            static_cast<std::uint16_t>(command & ~pci::kCommandIntxDisable));
}

std::uint8_t PciSetup::find_capability(std::uint32_t slot, std::uint8_t id) {
  if ((bus_.load<std::uint16_t>(at(slot, pci::kStatus)) & pci::kStatusCapabilities) == 0) return 0;
  std::uint8_t offset = bus_.load<std::uint8_t>(at(slot, pci::kCapabilities)) & 0xfc;
  for (int hops = 0; hops < 48 && offset >= pci::kHeaderBytes; ++hops) {
    if (bus_.load<std::uint8_t>(at(slot, offset)) == id) return offset;
    offset = bus_.load<std::uint8_t>(at(slot, offset + 1u)) & 0xfc;
  }
  return 0;
}

std::uint32_t PciSetup::enable_msix(std::uint32_t slot, std::uint32_t first, std::uint32_t most) {
  const std::uint32_t capability = find_capability(slot, pci::kCapabilityMsix);
  if (capability == 0) return 0;
  const Gpa control_at = at(slot, capability + pci::kMsixControl);
  const auto control = bus_.load<std::uint16_t>(control_at);
  const std::uint32_t vectors = (control & pci::kMsixSizeMask) + 1u;
  const auto place = bus_.load<std::uint32_t>(at(slot, capability + pci::kMsixTable));
  const Gpa table{bar(slot, place & 7) + (place & ~7u)};
  const std::uint32_t used = std::min(vectors, most);
  for (std::uint32_t vector = 0; vector < used; ++vector) {
    const Gpa entry = table + vector * MsixTable::kEntryBytes;
    bus_.store<std::uint32_t>(entry, static_cast<std::uint32_t>(kMessageBase));
    bus_.store<std::uint32_t>(entry + 4, 0);
    bus_.store<std::uint32_t>(entry + 8, first + vector);
    bus_.store<std::uint32_t>(entry + 12, 0);
  }
  const auto keep = static_cast<std::uint16_t>(control & ~MsixTable::kControlMaskAll);
  bus_.store<std::uint16_t>(control_at, keep | MsixTable::kControlEnable);
  return used;
}

}  // namespace handover::vmm::synthetic
