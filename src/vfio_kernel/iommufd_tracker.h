#pragma once

#include <cstdint>

#include "vfio_kernel/iommufd_space.h"
#include "vfio_kernel/space_tracker.h"

namespace handover::vfio_kernel {

/// Dirty tracking by the dirty bits of a page table of the host's IOMMU.  (iommufd uAPI, Linux 6.7:
/// HWPT_SET_DIRTY_TRACKING, HWPT_GET_DIRTY_BITMAP.)
///
/// The kernel has no unmapping that brings the bits along: they are read right before.  What a device writes
/// in between is lost, so whoever unmaps has to be done with the device's writes there, as every driver is
/// before it gives a buffer back.  An entry that maps 2 MiB is dirty as a whole.
class IommufdTracker final : public SpaceTracker {
 public:
  /// `table`: the page table's number; `space` outlives it.
  IommufdTracker(IommufdSpace& space, std::uint32_t table)
      : SpaceTracker(space, kPageSize), fd_(space.fd()), table_(table) {}
  vfio::TrackerKind kind() const override { return vfio::TrackerKind::iommufd; }

 private:
  Status turn_on() override { return set(true); }
  Status turn_off() override { return set(false); }
  Status read(const vfio::IovaRange& run, Words words) override { return get(run, words, 0); }
  Result<bool> take_and_read(const vfio::IovaRange& mapping, Words words) override;

  Status set(bool on);
  Status get(const vfio::IovaRange& run, Words words, std::uint32_t flags);

  const int fd_;
  const std::uint32_t table_;
};

}  // namespace handover::vfio_kernel
