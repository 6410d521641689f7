#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/address_space.h"
#include "vmm/pci_bus.h"

namespace handover::vmm::synthetic {

/// The guest's firmware and bus driver: all by config space and registers, as the guest sees them.
class PciSetup {
 public:
  explicit PciSetup(AddressSpace& bus) : bus_(bus) {}

  /// Slots with this vendor and device id, ascending.
  std::vector<std::uint32_t> find(std::uint16_t vendor, std::uint16_t device);

  /// Sizes the device's BARs, gives each a place of its own and switches decoding and bus mastering on.
  /// False if they do not fit any more.
  bool place_bars(std::uint32_t slot);
  /// Where a memory BAR is now.
  std::uint64_t bar(std::uint32_t slot, std::uint32_t index);
  /// The guest address at which the CPU reaches the ports of an I/O BAR; 0: it is none.
  std::uint64_t ports(std::uint32_t slot, std::uint32_t index);
  /// Lets the device use its interrupt line.
  void enable_line(std::uint32_t slot);

  /// Points vectors 0.. at guest vectors `first`.. of CPU 0 and switches MSI-X on.  Returns how many there
  /// are; 0: the device has no MSI-X, or does not answer.
  std::uint32_t enable_msix(std::uint32_t slot, std::uint32_t first, std::uint32_t most);

 private:
  Gpa at(std::uint32_t slot, std::uint32_t reg) const { return Gpa{kEcamBase + slot * kEcamSlotBytes + reg}; }
  std::uint8_t find_capability(std::uint32_t slot, std::uint8_t id);
  /// The BAR's size; 0: there is none.
  std::uint64_t size_bar(Gpa reg, std::uint32_t type_mask);

  AddressSpace& bus_;
  std::uint64_t next_ = kMmioBase;
  std::uint64_t next_port_ = 0x1000;  // below are those of the platform
};

}  // namespace handover::vmm::synthetic
