#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "handover/base/result.h"
#include "handover/vfio_abi/device_info.h"
#include "handover/vfio_abi/device_state.h"

namespace handover::vfio {

/// What one read of a device's state gave.
struct StateRead {
  enum class Kind {
    data,         ///< `bytes` bytes; there may be more
    nothing_now,  ///< come back later; in stop-copy only a v1 device that is late with its data says so
    end,          ///< stop-copy only: that was all
  };
  Kind kind = Kind::end;
  std::size_t bytes = 0;  ///< may be more than 0 with every kind: they come before the pause or the end
};

/// The one device protocol inside Handover: v2 by kernel ioctls, v2 by vfio-user messages and the v1 region
/// are implementations, and nothing above can tell which one it drives.
///
/// Calls block until the device is done; one thread at a time.  A failed call leaves the device in the
/// state that state() then says.
class MigrationProtocol {
 public:
  virtual ~MigrationProtocol() = default;

  /// Which protocol and what carries it, for people and queries: "v2 over vfio-user", "v1 region".
  virtual std::string_view protocol_name() const { return "v2"; }
  /// Feature bits kMigrationStopCopy, kMigrationP2p, kMigrationPreCopy.
  virtual std::uint64_t features() const = 0;
  virtual Result<DeviceState> state() = 0;
  /// One request; the device walks the path.  The caller has checked that the path exists.
  virtual Status set_state(DeviceState to) = 0;
  /// In PRE_COPY, PRE_COPY_P2P and STOP_COPY.
  virtual Result<StateRead> read(std::span<std::byte> buffer) = 0;
  /// In RESUMING; takes all of it.  That the device could not load it may be said only by the next write()
  /// or set_state(): a load has succeeded when the device has left RESUMING.
  virtual Status write(std::span<const std::byte> data) = 0;
  /// Empty if the device cannot say.  In PRE_COPY and PRE_COPY_P2P only.
  virtual Result<std::optional<PrecopyInfo>> precopy_info() = 0;
  /// Estimated bytes of STOP_COPY; empty if the device cannot say.
  virtual Result<std::optional<std::uint64_t>> stop_copy_size() = 0;
  /// How much one read() or write() should carry at the most.
  virtual std::size_t preferred_chunk() const = 0;
  /// True: what one read() gave is one chunk, and the device at the other end must get it as one write(), in
  /// the same order (protocol v1).  Whoever carries the data must then keep the boundaries, and give read() a
  /// buffer of at least preferred_chunk(); its write() refuses a chunk larger than its own preferred_chunk().
  /// False: the data is a stream that may be cut anywhere.
  virtual bool keeps_chunks() const { return false; }
};

}  // namespace handover::vfio
