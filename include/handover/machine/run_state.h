#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace handover {

/// What the machine as a whole is doing; the names are QEMU's.
enum class RunState {
  prelaunch,  ///< made, never started
  inmigrate,  ///< waiting for or loading an incoming migration
  running,
  paused,          ///< stopped by a person
  finish_migrate,  ///< stopped for the last part of an outgoing migration
  postmigrate,     ///< given up to a destination
  save_vm,         ///< stopped to save a snapshot
  guest_panicked,  ///< the guest found itself broken
  io_error,        ///< a device failed in a way that the guest must not see
  internal_error,  ///< a device or a listener failed in a state change
  shutdown,
};

std::string_view to_string(RunState state);
std::optional<RunState> run_state_from(std::string_view name);

struct RunStateArc {
  RunState from;
  RunState to;
};
/// The legal transitions; everything else is refused.
std::span<const RunStateArc> run_state_arcs();
bool run_state_arc_exists(RunState from, RunState to);

}  // namespace handover
