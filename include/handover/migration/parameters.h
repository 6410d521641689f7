#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "handover/base/result.h"

namespace handover {

/// QEMU's migration parameters, as far as Handover has them; names in JSON and on the command line are
/// QEMU's (`max-bandwidth` ...), defaults and ranges too.
struct Parameters {
  std::uint64_t max_bandwidth = 128ull << 20;    ///< bytes a second while the guest runs; 0: no limit
  std::uint64_t avail_switchover_bandwidth = 0;  ///< bytes a second for the estimate; 0: what was measured
  std::uint64_t downtime_limit_ms = 300;         ///< 0..2000000
  std::uint64_t multifd_channels = 2;            ///< 1..255
  bool direct_io = false;                        ///< mapped-ram files, where the file system can
  /// Bytes of one device's state that may wait on the destination to be loaded; the source waits for room.
  /// (QEMU has it as a property of the device, without a limit by default.)
  std::uint64_t max_queued_buffers_size = 64ull << 20;

  bool operator==(const Parameters&) const = default;
};

/// QEMU's capabilities, as far as Handover has them.
struct Capabilities {
  bool events = false;      ///< MIGRATION events on the control socket
  bool return_path = true;  ///< on by default, unlike QEMU: the commit needs the answer
  bool pause_before_switchover = false;
  bool multifd = false;         ///< both sides: RAM and device state over multifd-channels connections
  bool switchover_ack = false;  ///< both sides: stop only when the initial data of devices has been loaded
  bool mapped_ram = false;      ///< both sides, files: every page at a place of its own

  bool operator==(const Capabilities&) const = default;
};

/// The object of query-migrate-parameters.
nlohmann::json to_json(const Parameters& parameters);
/// Takes any subset of the parameters; all or nothing.  Unknown names, wrong types and values out of range
/// fail with the name, the range and the known names.
Status apply_changes(Parameters& parameters, const nlohmann::json& changes);

/// The list of query-migrate-capabilities: [{"capability": name, "state": bool}, ...].
nlohmann::json to_json(const Capabilities& capabilities);
/// Takes a list of the same shape; all or nothing.  Refuses what contradicts itself, and, with their reasons,
/// those of QEMU's that machines with VFIO devices cannot have.
Status apply_changes(Capabilities& capabilities, const nlohmann::json& changes);

}  // namespace handover
