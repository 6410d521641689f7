#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "handover/base/result.h"
#include "handover/vfio/device.h"

namespace handover::vfio_kernel {

/// Which of the kernel's two ways to a device is taken.
enum class Path {
  automatic,  ///< the character device with iommufd if the kernel has both, else group and container
  cdev,       ///< /dev/vfio/devices/vfioN and /dev/iommu (Linux 6.6)
  group,      ///< /dev/vfio/GROUP and a type1 v2 container
};

struct KernelOptions {
  std::string id;  ///< the user's name for the device
  /// A PCI address (`0000:41:00.3`), a folder in sysfs (`/sys/bus/mdev/devices/UUID`), a character device
  /// (`/dev/vfio/devices/vfio0`), or the descriptors that somebody with the right to open them has left to
  /// this process: `fd=N` of a character device and, if this process may not open /dev/iommu,
  /// `fd=N,iommufd=M`.
  ///
  /// N must be as it was opened, bound to no iommufd.  When the device is open N is closed, since a device
  /// goes back to the host only when nothing has it open; after a failure N is the caller's as before.  M may
  /// serve several devices: it stays open, and is made close-on-exec.
  std::string where;
  Path path = Path::automatic;
  /// The device stays in the migration state in which somebody before left it, as the kernel keeps it;
  /// otherwise it is set running, by a reset if need be.
  bool keep_state = false;
};

/// Opens a device of the kernel's VFIO.  A failure says what stands in the way and, where there is one, the
/// command that removes it: no such device, another driver, no IOMMU, no permission, in use, a group that is
/// not viable.
///
/// What the device maps for its DMA is mapped in an address space of its own.
///
/// The device is lost when the host asks for it back (VFIO's REQ interrupt, where its driver has one; a
/// thread of the device's waits for it).  The host waits until the device is closed.
Result<std::unique_ptr<vfio::Device>> open_device(const KernelOptions& options);

}  // namespace handover::vfio_kernel
