#pragma once

#include <cstdint>
#include <string>

#include "vmm/address_space.h"
#include "vmm/synthetic/content.h"
#include "vmm/synthetic/guest_ram.h"
#include "vmm/synthetic/iommu_driver.h"
#include "vmm/synthetic/layout.h"
#include "vmm/synthetic/pci_setup.h"
#include "vmm/synthetic/registers.h"

namespace handover::vmm::synthetic {

/// The guest's driver of one educational device (edu.h).
///
/// In rounds: fresh content goes by DMA from a page of guest memory into the device, and from there by DMA
/// into another page, where it is compared; interrupts tell of the end of each.  Behind an IOMMU a page is
/// mapped for the time of its transfer.
///
/// A view over registers and guest memory, as AcceleratorDriver.
class EduDriver {
 public:
  EduDriver(const GuestRam& ram, AddressSpace& bus, const Layout& layout, Registers& registers,
            std::uint32_t index);

  /// Brings the device up; its EduRegisters exist and name the slot.
  Status set_up(PciSetup& pci);
  Status on_interrupt();
  /// Begins rounds, one after the other, if `more` are wanted; watches over what is under way.
  Status work(bool more);
  /// True once nothing is under way; then what the last round left in memory has been compared again.
  Result<bool> verify();

  bool running() const { return edu_.state == DeviceRegisters::kRunning; }

 private:
  std::uint32_t read(std::uint32_t reg) { return bus_.load<std::uint32_t>(Gpa{edu_.bar + reg}); }
  void write(std::uint32_t reg, std::uint32_t value) { bus_.store(Gpa{edu_.bar + reg}, value); }
  Content content() const;
  Gpa source() const;
  Gpa target() const;
  Status begin(EduRegisters::Phase phase);
  Status finish();
  Status compare_target() const;
  Result<std::uint64_t> reach(Gpa page, std::uint32_t flags);
  Status forget();
  Status take_interrupt();
  Status watch();
  /// True if the device is gone, which is then noted.
  bool gone();
  /// A device may go at any moment, and reads as ones from then on: then nothing is wrong.
  Status unless_gone(Status done);
  std::unexpected<Error> wrong(std::string what) const;

  GuestRam ram_;
  AddressSpace& bus_;
  const Layout& layout_;
  Registers& registers_;
  IommuDriver iommu_;
  const std::uint32_t index_;
  EduRegisters& edu_;
};

}  // namespace handover::vmm::synthetic
