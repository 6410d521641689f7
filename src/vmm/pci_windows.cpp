#include "vmm/pci_bus.h"
#include "vmm/pci_device.h"

// Where a device's BARs are on the guest's bus, and what of them its peers reach.

namespace handover::vmm {

void PciDevice::update_windows() {
  wiring_.bus.remove_windows(this);
  publish_areas();
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    const BarDecode decode = config_.bar(i);
    if (decode.size == 0 || decode.address == 0) continue;
    if (decode.memory && config_.memory_enabled()) add_bar_windows(i, decode);
    if (!decode.memory && config_.io_enabled() && range_fits(decode.address, decode.size, kPorts))
      wiring_.bus.add_window(this, kPortBase + decode.address, decode.size, *regions_[i]);
  }
}

// What peers can reach: the memory in its windows.  Registers are no memory, and nobody is promised to reach
// them by DMA.
void PciDevice::publish_areas() {
  if (!wiring_.peers) return;
  std::vector<PeerMappings::Area> areas;
  for (const auto& area : direct_areas_) {
    const BarDecode decode = config_.bar(area.bar);
    if (!config_.memory_enabled() || !decode.memory || decode.address == 0) continue;
    const auto access = device_.region(vfio::kRegionBar0 + area.bar).flags;
    areas.push_back({.at = Gpa{decode.address} + area.offset,
                     .bytes = area.mapping,
                     .file = area.file,
                     .flags = ((access & vfio::kRegionRead) != 0 ? vfio::kDmaRead : 0u) |
                              ((access & vfio::kRegionWrite) != 0 ? vfio::kDmaWrite : 0u)});
  }
  wiring_.peers->publish(device_, std::move(areas));
}

// Earlier windows win: the emulated MSI-X parts, then what is mapped, then the device for the rest.  A mapped
// area without a file is registers of hardware, for which the width of an access matters: the device is
// asked.
void PciDevice::add_bar_windows(std::uint32_t index, const BarDecode& decode) {
  const Gpa start{decode.address};
  if (msix_ && msix_place_.table_bar == index)
    wiring_.bus.add_window(this, start + msix_place_.table_offset, msix_->table_bytes(), *table_window_);
  if (msix_ && msix_place_.pending_bar == index)
    wiring_.bus.add_window(this, start + msix_place_.pending_offset, msix_->pending_bytes(),
                           *pending_window_);
  for (const auto& area : direct_areas_)
    if (area.bar == index && area.file.fd >= 0)
      wiring_.bus.add_direct_window(this, start + area.offset, area.mapping->span());
  wiring_.bus.add_window(this, start, decode.size, *regions_[index]);
}

}  // namespace handover::vmm
