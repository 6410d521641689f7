#pragma once

#include <optional>
#include <string>
#include <vector>

#include "handover/base/result.h"

namespace handover::vfio_kernel {

/// Where the kernel has a device: found by looking, nothing is opened.
struct DevicePlace {
  std::string name;   ///< what its group knows it by: the PCI address, the UUID of a mediated device
  std::string sysfs;  ///< its folder
  std::string bus;    ///< pci, mdev
  std::optional<std::string> driver;
  std::optional<std::string> group;  ///< its number
  std::optional<std::string> cdev;   ///< `vfio0`; the kernel has no character device for it otherwise

  bool is_vfio_driver() const { return driver && driver->find("vfio") != std::string::npos; }
};

/// By PCI address, folder in sysfs, or character device.  Fails if there is no such device.
Result<DevicePlace> find_device(const std::string& where);

/// Another device of the same group, with the driver that has it.
struct GroupMember {
  std::string name;
  std::optional<std::string> driver;
};
std::vector<GroupMember> others_in_group(const DevicePlace& device);

/// Why a device cannot be opened although it is there, and the way out.  Success: nothing is known against
/// it.
Status explain_place(const DevicePlace& device);

}  // namespace handover::vfio_kernel
