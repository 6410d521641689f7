#include "vmm/pci_bus.h"

#include <algorithm>

namespace handover::vmm {

PciDevice* PciBus::find(std::uint64_t offset, std::size_t bytes, std::uint32_t& at) const {
  PciDevice* device = slots_[offset / kEcamSlotBytes];
  at = static_cast<std::uint32_t>(offset % kEcamSlotBytes);
  return device && range_fits(at, bytes, device->config().size()) ? device : nullptr;
}

void PciBus::read(std::uint64_t offset, std::span<std::byte> to) {
  std::uint32_t at = 0;
  if (PciDevice* device = find(offset, to.size(), at))
    device->config_read(at, to);
  else
    std::ranges::fill(to, std::byte{0xff});
}

void PciBus::write(std::uint64_t offset, std::span<const std::byte> from) {
  std::uint32_t at = 0;
  if (PciDevice* device = find(offset, from.size(), at)) device->config_write(at, from);
}

void PciBus::LineController::read(std::uint64_t, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0});
}

void PciBus::LineController::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (offset != lines::kEndOfInterrupt || from.size() != sizeof(std::uint32_t)) return;
  const auto slot = load_le<std::uint32_t>(from.data());
  if (slot < kPciSlots && pci_.slots_[slot]) pci_.slots_[slot]->end_of_interrupt();
}

}  // namespace handover::vmm
