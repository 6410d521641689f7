#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "handover/base/result.h"
#include "handover/vfio/dma_dirty_source.h"

namespace handover::vmm {

/// One device of the machine.
struct DeviceOptions {
  enum class Kind {
    vfio_user,  ///< in a process of its own, behind `socket`
    vfio_pci,   ///< of this host, behind the kernel's VFIO
  };

  std::string id;  ///< the user's name for it
  Kind kind = Kind::vfio_user;
  std::string socket = {};  ///< vfio_user: of its server
  /// vfio_pci: a PCI address, a folder in sysfs, a character device, or another form that
  /// vfio_kernel::KernelOptions::where knows.
  std::string host = {};
  /// PCI slot of the machine, 1 to kMaxDevices; 0: the lowest that is free.
  std::uint32_t slot = 0;
  /// How it is learnt what it writes by DMA.  Without a tracker named: the machine's, else the best.
  vfio::DirtyTrackingOptions dirty_tracking = {};

  bool operator==(const DeviceOptions&) const = default;
};

/// The longest id of a device; also what the stream has room for.
inline constexpr std::size_t kMaxDeviceId = 63;
/// PCI slots 1 to 31.
inline constexpr std::size_t kMaxDevices = 31;

/// Parses `vfio-user,socket=PATH,id=NAME`, `vfio-pci,host=ADDRESS,id=NAME` (or `sysfsdev=FOLDER`,
/// `fd=N[,iommufd=M]`) or `vfio:WHERE,id=NAME`, and what may follow: `slot=N`,
/// `dirty-page-tracking=auto|device|iommufd|type1|all`, `pre-copy-dirty-page-tracking=on|off` (keys in any
/// order).  A failure shows the correct spelling.
Result<DeviceOptions> parse_device_option(std::string_view text);
/// Whether one device alone is described well: id, where it is, slot.
Status check_device(const DeviceOptions& device);

}  // namespace handover::vmm
