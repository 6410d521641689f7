#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/vfio/device.h"
#include "vfio_kernel/device_place.h"
#include "vfio_kernel/inherited.h"

namespace handover::vfio_kernel {

/// What a device of the kernel's reaches by DMA: an address space of the host's IOMMU.
class DmaSpace {
 public:
  virtual ~DmaSpace() = default;
  virtual std::string name() const = 0;
  virtual Status map(const vfio::DmaMapping& mapping) = 0;
  virtual Status unmap(const vfio::IovaRange& range) = 0;
};

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
