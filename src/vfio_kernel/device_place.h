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

  bool is_vfio_driver() const { return cdev || (driver && driver->find("vfio") != std::string::npos); }
};

/// By PCI address, folder in sysfs, or character device.  Fails if there is no such device.
Result<DevicePlace> find_device(const std::string& where);

/// Another device of the same group, with the driver that has it.
struct GroupMember {
  std::string name;
  std::optional<std::string> driver;
  std::optional<std::string> cdev;

  /// It keeps the group from being viable: its driver is neither VFIO's nor one that does no DMA for itself.
  bool stands_in_the_way() const;
};
std::vector<GroupMember> others_in_group(const DevicePlace& device);

/// What a person types to give a PCI device to vfio-pci, as root.
std::string bind_command(const std::string& address, const std::optional<std::string>& driver);

/// Why a device cannot be opened although it is there, and the way out.  Success: nothing is known against
/// it.
Status explain_place(const DevicePlace& device);

}  // namespace handover::vfio_kernel
