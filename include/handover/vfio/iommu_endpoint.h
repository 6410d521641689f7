#pragma once

#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio/virtual_iommu.h"

namespace handover::vfio {

/// A device behind a guest's IOMMU: has mapped for its DMA what the guest mapped, and nothing else.
///
/// Before a mapping goes for good, what the device wrote there is marked in the guest's memory as it was
/// mapped then, if a migration is under way.
class IommuEndpoint final : public IommuListener {
 public:
  /// All outlive the object.  `map` is the view of `dirt`.
  IommuEndpoint(Device& device, GuestMemory& memory, IovaMap& map, DmaDirtySource& dirt)
      : device_(device), memory_(memory), map_(map), dirt_(dirt) {}

  void change(std::span<IommuChange> changes) override;

 private:
  DmaChange for_device(const IommuChange& change) const;

  Device& device_;
  GuestMemory& memory_;
  IovaMap& map_;
  DmaDirtySource& dirt_;
};

}  // namespace handover::vfio
