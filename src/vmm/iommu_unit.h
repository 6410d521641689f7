#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "handover/stream/migratable.h"
#include "handover/vfio/virtual_iommu.h"
#include "vmm/address_space.h"
#include "vmm/iommu_interface.h"

namespace handover::vmm {

/// The machine's IOMMU as the guest sees it (iommu_interface.h), over a VirtualIommu; section
/// `handover-viommu`, which a destination has loaded before any device of it has its state.
///
/// The guest's accesses follow AddressSpace's rule of ownership, as do saving and loading.
class IommuUnit final : public MmioHandler, public StateItem {
 public:
  /// Both outlive the object.
  IommuUnit(GuestMemory& memory, vfio::VirtualIommu& iommu) : memory_(memory), iommu_(iommu) {}

  // MmioHandler
  void read(std::uint64_t offset, std::span<std::byte> to) override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;

  // StateItem
  std::string section_name() const override { return "handover-viommu"; }
  std::string display_name() const override { return "the guest's IOMMU"; }
  bool goes_before_devices() const override { return true; }
  const vmstate::Description* description() const override;
  Status save_state(StreamWriter& out) override;
  Status load_state(StreamReader& in, std::uint32_t version) override;

 protected:
  void* mutable_object() const override { return const_cast<State*>(&state_); }

 private:
  struct State {
    std::uint64_t ring = 0;
    std::uint32_t entries = 0;
    std::uint32_t head = 0;
    std::uint32_t status = 0;
    vfio::IommuState mappings;  // only while it is saved or loaded
    bool ring_fits() const;
  };

  std::uint32_t load_register(std::uint64_t offset) const;
  void store_register(std::uint64_t offset, std::uint32_t value);
  void carry_out(std::uint32_t tail);
  void carry_out(std::span<iommu::Command> commands);
  void change(std::span<iommu::Command> commands);

  GuestMemory& memory_;
  vfio::VirtualIommu& iommu_;
  State state_;
};

}  // namespace handover::vmm
