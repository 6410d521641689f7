#pragma once

#include "vmm/address_space.h"
#include "vmm/iommu_interface.h"
#include "vmm/synthetic/guest_ram.h"
#include "vmm/synthetic/layout.h"
#include "vmm/synthetic/registers.h"

namespace handover::vmm::synthetic {

/// The guest's driver of its IOMMU.  Commands are collected and given to it by flush(), within one step of
/// the program; a view over registers and guest memory, as the other drivers are.
class IommuDriver {
 public:
  IommuDriver(const GuestRam& ram, AddressSpace& bus, Registers& registers)
      : ram_(ram), bus_(bus), registers_(registers) {}

  /// At boot.  Errc::mismatch: the unit is not what the firmware said.
  Status set_up();

  void attach(std::uint32_t slot, std::uint32_t domain);
  /// Whole pages.
  void map(std::uint32_t domain, Iova iova, Gpa target, std::uint64_t size, std::uint32_t flags);
  void unmap(std::uint32_t domain, Iova iova, std::uint64_t size);
  /// Has it carry out what was collected.  The status of the first command that failed, or ok.
  iommu::CommandStatus flush();

 private:
  static constexpr std::uint32_t kEntries = kPageSize / sizeof(iommu::Command);
  void put(iommu::Command command);
  Gpa entry(std::uint32_t number) const {
    return Layout::iommu_ring() + number % kEntries * sizeof(iommu::Command);
  }

  GuestRam ram_;
  AddressSpace& bus_;
  Registers& registers_;
  std::uint32_t waiting_ = 0;
  iommu::CommandStatus failed_ = iommu::CommandStatus::ok;  // in a flush before this one
};

}  // namespace handover::vmm::synthetic
