#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/units.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"
#include "handover/vfio/dma_dirty_source.h"
#include "handover/vmm/device_options.h"

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

/// Makes the device that the options describe.
using ConnectDevice = std::function<Result<std::unique_ptr<vfio::Device>>(const DeviceOptions&, GuestMemory&,
                                                                          const CancelToken&)>;
/// The usual way: a client of the vfio-user server at the option's socket, or the kernel's VFIO.
Result<std::unique_ptr<vfio::Device>> connect_device(const DeviceOptions& options, GuestMemory& memory,
                                                     const CancelToken& cancel);

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
