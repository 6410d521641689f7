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

  bool operator==(const Parameters&) const = default;
};

/// QEMU's capabilities, as far as Handover has them.
struct Capabilities {
  bool events = false;      ///< MIGRATION events on the control socket
  bool return_path = true;  ///< on by default, unlike QEMU: the commit needs the answer
  bool pause_before_switchover = false;

  bool operator==(const Capabilities&) const = default;
};

/// The object of query-migrate-parameters.
nlohmann::json to_json(const Parameters& parameters);
/// Takes any subset of the parameters; all or nothing.  Unknown names, wrong types and values out of range
/// fail with the name, the range and the known names.
Status apply_changes(Parameters& parameters, const nlohmann::json& changes);

/// The list of query-migrate-capabilities: [{"capability": name, "state": bool}, ...].
nlohmann::json to_json(const Capabilities& capabilities);
/// Takes a list of the same shape; all or nothing.
Status apply_changes(Capabilities& capabilities, const nlohmann::json& changes);

}  // namespace handover
