#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/units.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"
#include "handover/vfio/dma_dirty_source.h"

namespace handover::vmm {

/// What the synthetic guest does.  These are settings of its start: a guest that arrives by migration brings
/// its own.
struct GuestOptions {
  std::uint64_t working_set = 0;        ///< bytes; 0: three quarters of the RAM
  std::uint64_t dirty_rate = 64 * MiB;  ///< bytes a second that it writes, once the working set is filled
  std::uint64_t job_rate = 200;         ///< jobs a second for each accelerator
  std::uint64_t seed = 1;               ///< of everything it writes
  bool fill = true;                     ///< write the whole working set first, as fast as it goes

  bool operator==(const GuestOptions&) const = default;
};

/// One device of the machine.
struct DeviceOptions {
  std::string id;      ///< the user's name for it
  std::string socket;  ///< of its vfio-user server
  /// PCI slot, 1 to kMaxDevices; 0: the lowest that is free.
  std::uint32_t slot = 0;
  /// How it is learnt what it writes by DMA.  Without a tracker named: the machine's, else the best.
  vfio::DirtyTrackingOptions dirty_tracking = {};

  bool operator==(const DeviceOptions&) const = default;
};

/// Makes the device that the options describe.
using ConnectDevice = std::function<Result<std::unique_ptr<vfio::Device>>(const DeviceOptions&, GuestMemory&,
                                                                          const CancelToken&)>;
/// The usual way: a client of the vfio-user server at the option's socket.
Result<std::unique_ptr<vfio::Device>> connect_device(const DeviceOptions& options, GuestMemory& memory,
                                                     const CancelToken& cancel);

/// The longest id of a device; also what the stream has room for.
inline constexpr std::size_t kMaxDeviceId = 63;
/// PCI slots 1 to 31.
inline constexpr std::size_t kMaxDevices = 31;

/// Parses `vfio-user,socket=PATH,id=NAME` and what may follow: `slot=N`,
/// `dirty-page-tracking=auto|device|iommufd|type1|all`, `pre-copy-dirty-page-tracking=on|off` (keys in any
/// order).  A failure shows the correct spelling.
Result<DeviceOptions> parse_device_option(std::string_view text);
/// Whether one device alone is described well: id, socket, slot.
Status check_device(const DeviceOptions& device);

/// A machine to be made.  Devices without a slot take the free ones in their order; a device's section of the
/// stream is `0000:00:SS.0/vfio`.
struct VmConfig {
  std::uint64_t memory = 256 * MiB;
  bool huge_pages = false;
  bool prealloc = false;  ///< take all RAM from the host at the start
  std::vector<DeviceOptions> devices;
  GuestOptions guest;
  /// Devices reach each other's memory by DMA.  Both sides of a migration must have the same; with off, a
  /// device that cannot be kept from its peers (no P2P state) does not block the migration of several
  /// (mission C8).
  bool p2p = true;
  /// Devices reach only what the guest has mapped in its IOMMU, which is RAM; no device reaches another then,
  /// whatever `p2p` says.  Both sides of a migration must have the same.
  bool viommu = false;
  /// The tracker of devices that name none; empty: the best.
  std::optional<vfio::TrackerKind> dirty_tracking = std::nullopt;
  bool incoming = false;  ///< wait for a migration (run state inmigrate) instead of a start (prelaunch)
  /// Where devices come from; something else for devices of another kind.
  ConnectDevice connect = connect_device;

  bool peer_to_peer() const { return p2p && !viommu; }
  /// What can be known before anything is made: sizes, number of devices, unique ids and slots.
  Status check() const;
};

}  // namespace handover::vmm
