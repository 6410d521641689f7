#include "vmm/pci_device.h"

#include <algorithm>

#include "handover/base/log.h"

namespace handover::vmm {

void PciDevice::Region::read(std::uint64_t offset, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0xff});
  if (!range_fits(offset, to.size(), device_.region(index_).size)) return;
  if (auto done = device_.region_read(index_, offset, to); !done) {
    // A bus without an answer: the guest reads ones, and may find out that the device is gone.
    std::ranges::fill(to, std::byte{0xff});
    if (!device_.lost())
      log::debug("device `{}`: read of region {} at {:#x} failed: {}", device_.id(), index_, offset,
                 done.error().to_string());
  }
}

void PciDevice::Region::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (!range_fits(offset, from.size(), device_.region(index_).size)) return;
  if (auto done = device_.region_write(index_, offset, from); !done && !device_.lost())
    log::debug("device `{}`: write to region {} at {:#x} failed: {}", device_.id(), index_, offset,
               done.error().to_string());
}

PciDevice::PciDevice(vfio::Device& device, std::uint32_t slot, const Wiring& wiring)
    : device_(device), slot_(slot), wiring_(wiring) {
}

Result<std::unique_ptr<PciDevice>> PciDevice::attach(vfio::Device& device, std::uint32_t slot,
                                                     const Wiring& wiring) {
  std::unique_ptr<PciDevice> self(new PciDevice(device, slot, wiring));
  HANDOVER_TRY_CONTEXT(self->read_config(), "device `{}`", device.id());
  HANDOVER_TRY_CONTEXT(self->find_msix(), "device `{}`", device.id());
  HANDOVER_TRY_CONTEXT(self->find_intx(), "device `{}`", device.id());
  HANDOVER_TRY_CONTEXT(self->map_areas(), "device `{}`", device.id());
  HANDOVER_TRY_CONTEXT(self->map_ram(), "device `{}`", device.id());
  if (wiring.peers) wiring.peers->join(device);
  return self;
}

void PciDevice::withdraw() {
  wiring_.bus.remove_windows(this);
  if (wiring_.peers) wiring_.peers->leave(device_);
}

PciDevice::~PciDevice() {
  withdraw();
  watches_.clear();
  line_watch_.reset();
  if (device_.lost()) return;
  drop_interrupts();
  for (const auto& range : mapped_ram_)
    if (auto done = device_.dma_unmap(range); !done)
      log::debug("detaching device `{}`: {}", device_.id(), done.error().to_string());
}

Status PciDevice::read_config() {
  if ((device_.info().flags & vfio::kDeviceFlagPci) == 0 || device_.info().num_regions <= vfio::kRegionConfig)
    return fail(Errc::unsupported, "it is no PCI device");
  const std::uint64_t there = device_.region(vfio::kRegionConfig).size;
  if (there < pci::kHeaderBytes)
    return fail(Errc::device, "its config space has {} bytes; the header alone has {}", there,
                pci::kHeaderBytes);
  // Some have a little less than a whole one (Linux's mtty: 255 bytes); what is missing reads as zeros.
  const std::size_t size = there >= pci::kExpressConfigBytes ? pci::kExpressConfigBytes : pci::kConfigBytes;
  std::vector<std::byte> initial(size);
  HANDOVER_TRY_CONTEXT(device_.region_read(vfio::kRegionConfig, 0,
                                           std::span(initial).first(std::min<std::uint64_t>(size, there))),
                       "reading its config space");
  if ((std::to_integer<unsigned>(initial[pci::kHeaderType]) & 0x7f) != 0)
    return fail(Errc::unsupported, "its config header is of type {}; only type 0 (no bridge) can be attached",
                std::to_integer<unsigned>(initial[pci::kHeaderType]) & 0x7f);
  std::array<std::uint64_t, pci::kBars> sizes{};
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    sizes[i] = device_.region(vfio::kRegionBar0 + i).size;
    if (sizes[i] > 0) regions_[i] = std::make_unique<Region>(device_, vfio::kRegionBar0 + i);
  }
  config_ = ConfigSpace(std::move(initial), sizes);
  return {};
}

Status PciDevice::map_areas() {
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    const auto& region = device_.region(vfio::kRegionBar0 + i);
    if (region.size == 0 || (region.flags & vfio::kRegionMmap) == 0) continue;
    auto areas = region.areas;
    if (areas.empty()) areas.push_back({0, region.size});
    for (const auto& area : areas) {
      HANDOVER_ASSIGN_CONTEXT(auto mapping, device_.map_area(region.index, area),
                              "mapping {} bytes at {:#x} of BAR {}", area.size, area.offset, i);
      direct_areas_.push_back({i, area.offset, std::make_shared<const Mapping>(std::move(mapping)),
                               device_.area_file(region.index, area)});
    }
  }
  return {};
}

Status PciDevice::map_ram() {
  if (wiring_.behind_iommu) return {};
  for (const auto& range : wiring_.memory.ranges()) {
    vfio::DmaMapping mapping;
    mapping.iova = Iova{range.start.value};  // no IOMMU: the device sees what the CPUs see
    mapping.size = range.size;
    mapping.fd = range.block->fd();
    mapping.offset = range.offset;
    mapping.host = range.block->data() + range.offset;
    HANDOVER_TRY_CONTEXT(device_.dma_map(mapping), "mapping {} bytes of guest memory at {:#x} for its DMA",
                         range.size, range.start.value);
    mapped_ram_.push_back({mapping.iova, mapping.size});
  }
  return {};
}

void PciDevice::config_read(std::uint32_t at, std::span<std::byte> to) {
  if (device_.region_read(vfio::kRegionConfig, at, to)) {
    config_.learn(at, to);
  } else if (device_.lost()) {
    std::ranges::fill(to, std::byte{0xff});  // the slot looks empty
    return;
  }
  std::copy_n(config_.bytes().begin() + at, to.size(), to.begin());
}

void PciDevice::config_write(std::uint32_t at, std::span<const std::byte> from) {
  const auto command_before = config_.command();
  config_.write_emulated(at, from);
  forward_write(at, from);
  const auto touches = [&](std::uint32_t start, std::uint32_t bytes) {
    return at < start + bytes && start < at + from.size();
  };
  const auto command_changed = static_cast<std::uint16_t>(command_before ^ config_.command());
  if (touches(pci::kBar0, 4 * pci::kBars) ||
      (command_changed & (pci::kCommandMemory | pci::kCommandIo)) != 0) {
    update_windows();
    if (wiring_.peers)
      if (auto done = wiring_.peers->sync(); !done) log::warn("{}", done.error().to_string());
  }
  if (intx_ && (command_changed & pci::kCommandIntxDisable) != 0)
    intx_->set_disabled((config_.command() & pci::kCommandIntxDisable) != 0);
  if (msix_ && touches(config_.msix() + pci::kMsixControl, 2)) update_msix();
}

// What the device has to know: its own registers, and whole words of command and MSI-X control, since devices
// may refuse parts of a register.  BARs stay here: where the guest sees them is no business of the device.
void PciDevice::forward_write(std::uint32_t at, std::span<const std::byte> from) {
  auto send = [this](std::uint32_t where, std::span<const std::byte> bytes) {
    if (auto done = device_.region_write(vfio::kRegionConfig, where, bytes); !done && !device_.lost())
      log::debug("device `{}`: config write at {:#x} failed: {}", device_.id(), where,
                 done.error().to_string());
  };
  std::size_t i = 0;
  while (i < from.size()) {
    const auto where = static_cast<std::uint32_t>(at + i);
    std::size_t run = 1;
    if (!config_.emulated(where)) {
      while (i + run < from.size() && !config_.emulated(static_cast<std::uint32_t>(where + run)))
        ++run;
      send(where, from.subspan(i, run));
    } else if (const std::uint32_t word = where & ~1u;
               word == pci::kCommand || (msix_ && word == config_.msix() + pci::kMsixControl)) {
      run = std::min<std::size_t>(2 - (where & 1), from.size() - i);
      send(word, config_.bytes().subspan(word, 2));
    }
    i += run;
  }
}

}  // namespace handover::vmm
