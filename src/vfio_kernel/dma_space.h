#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/vfio/device.h"
#include "handover/vfio/dma_tracker.h"
#include "handover/vfio/iova_map.h"
#include "vfio_kernel/device_place.h"
#include "vfio_kernel/inherited.h"

namespace handover::vfio_kernel {

/// What a device of the kernel's reaches by DMA: an address space of the host's IOMMU.
///
/// It keeps a record of what is mapped, since the kernel does not tell, and its dirty bits can only be asked
/// for by whole mappings (type1) without a hole between them (iommufd).  map() and unmap() come from one
/// thread at a time, a tracker's reports from another.
class DmaSpace {
 public:
  DmaSpace() = default;
  virtual ~DmaSpace() = default;
  DmaSpace(const DmaSpace&) = delete;
  DmaSpace& operator=(const DmaSpace&) = delete;

  virtual std::string name() const = 0;
  /// What there is for dirty tracking; the trackers refer to the space.
  virtual std::vector<vfio::TrackerOffer> offers() = 0;

  Status map(const vfio::DmaMapping& mapping);
  /// Takes the mappings that lie inside away; a range that would cut one is refused.  What was written there
  /// is told to nobody: while writes are tracked, the tracker unmaps.
  Status unmap(const vfio::IovaRange& range);

  // For its tracker.

  /// While it is held nothing is unmapped.  Asking for dirty bits and unmapping exclude each other, since the
  /// kernel would end a report without a word at a hole that appears before it.  A leaf: under it nothing but
  /// the kernel is called.
  [[nodiscard]] std::unique_lock<std::mutex> hold() { return std::unique_lock(mutex_); }
  /// The first mappings that touch the range and have no gap between them: all of them, or as many as have
  /// `most` bytes, and one at least.  To be called under hold().
  std::optional<vfio::IovaRange> next_run(const vfio::IovaRange& range, std::uint64_t most) const;
  using Take = std::function<Status(const vfio::IovaRange& mapping)>;
  /// unmap() by somebody else's hand, mapping by mapping up to the first that fails.  To be called under
  /// hold().
  Status unmap_by(const vfio::IovaRange& range, const Take& take);
  /// Tells the kernel to unmap one mapping.  To be called by unmap() and `take`.
  virtual Status take_away(const vfio::IovaRange& mapping) = 0;

 private:
  virtual Status add(const vfio::DmaMapping& mapping) = 0;

  std::mutex mutex_;
  vfio::MappingTable mapped_;  // its targets mean nothing
};

/// The first mappings that touch the range and have no gap between them; see DmaSpace::next_run().
std::optional<vfio::IovaRange> next_run(const vfio::MappingTable& mapped, const vfio::IovaRange& range,
                                        std::uint64_t most);

/// A device that is open, in an address space of its own.  The members' order is that of making.
struct OpenedDevice {
  std::unique_ptr<DmaSpace> space;
  UniqueFd group;  ///< closed after the device
  UniqueFd device;
};

/// By group and type1 v2 container.
Result<OpenedDevice> open_by_group(const DevicePlace& place);
/// By character device and iommufd.  `inherited`: what somebody else has opened is taken instead.
Result<OpenedDevice> open_by_cdev(const DevicePlace& place, const Inherited* inherited);
/// Whether the kernel has what the second needs.
bool has_cdev_path(const DevicePlace& place);

/// What a failure of mapping memory means for a person.
std::unexpected<Error> explain_map_failure(const vfio::DmaMapping& mapping, Error error);

}  // namespace handover::vfio_kernel
