#pragma once

#include <string>

#include "handover/base/result.h"
#include "vfio_kernel/device_place.h"

namespace handover::vfio_kernel {

// What the kernel's refusals mean, and the way out: an errno alone says too little, and most stand for
// several things.  Source: VFIO and iommufd of Linux 6.12, and what they answered.

/// The device's group says that it is not viable.
std::unexpected<Error> explain_not_viable(const DevicePlace& place);
/// Opening the node of the device's group failed.
std::unexpected<Error> explain_group_open(const DevicePlace& place, Error error);
/// SET_IOMMU failed on a container with the device's group.
std::unexpected<Error> explain_set_iommu(const DevicePlace& place, Error error);
/// Binding the device to an iommufd failed.  `inherited`: somebody else has opened it.
std::unexpected<Error> explain_bind(const DevicePlace& place, Error error, bool inherited);

}  // namespace handover::vfio_kernel
