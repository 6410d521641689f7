#pragma once

#include <chrono>
#include <cstddef>
#include <span>

#include "handover/base/cancel.h"
#include "handover/vfio/migration_protocol.h"

namespace handover::vfio_kernel {

/// How long a device that has stopped may take for the next piece of its state.
inline constexpr std::chrono::seconds kStatePatience{30};

/// Reads what a device's data descriptor has.  Drivers that produce state by and by (mlx5) would hold a read
/// until there is some, and nothing ends that; they have poll(), so none is made before: while the device
/// runs there is nothing now, and once it has `stopped` this waits, until `over` or no longer than
/// `patience`. With other drivers a descriptor is always ready.  (VFIO uAPI, Linux 6.12.)
Result<vfio::StateRead> read_state(int data, bool stopped, std::span<std::byte> buffer,
                                   const CancelToken& over,
                                   std::chrono::milliseconds patience = kStatePatience);
/// Writes all of it.
Status write_state(int data, std::span<const std::byte> from);

}  // namespace handover::vfio_kernel
