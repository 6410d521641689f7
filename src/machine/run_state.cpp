#include "handover/machine/run_state.h"

#include <algorithm>
#include <utility>

namespace handover {
namespace {

constexpr std::pair<RunState, std::string_view> kNames[] = {
    {RunState::prelaunch, "prelaunch"},
    {RunState::inmigrate, "inmigrate"},
    {RunState::running, "running"},
    {RunState::paused, "paused"},
    {RunState::finish_migrate, "finish-migrate"},
    {RunState::postmigrate, "postmigrate"},
    {RunState::save_vm, "save-vm"},
    {RunState::guest_panicked, "guest-panicked"},
    {RunState::io_error, "io-error"},
    {RunState::internal_error, "internal-error"},
    {RunState::shutdown, "shutdown"},
};

// A machine that has been given up (postmigrate) runs again only when a person says so: that arc is the
// resolution of a doubt, and it leads through paused.
constexpr RunStateArc kArcs[] = {
    {RunState::prelaunch, RunState::running},
    {RunState::prelaunch, RunState::finish_migrate},
    {RunState::prelaunch, RunState::inmigrate},
    {RunState::prelaunch, RunState::internal_error},
    {RunState::prelaunch, RunState::shutdown},

    {RunState::inmigrate, RunState::running},
    {RunState::inmigrate, RunState::paused},
    {RunState::inmigrate, RunState::prelaunch},
    {RunState::inmigrate, RunState::internal_error},
    {RunState::inmigrate, RunState::shutdown},

    {RunState::running, RunState::paused},
    {RunState::running, RunState::finish_migrate},
    {RunState::running, RunState::save_vm},
    {RunState::running, RunState::guest_panicked},
    {RunState::running, RunState::io_error},
    {RunState::running, RunState::internal_error},
    {RunState::running, RunState::shutdown},

    {RunState::paused, RunState::running},
    {RunState::paused, RunState::finish_migrate},
    {RunState::paused, RunState::save_vm},
    {RunState::paused, RunState::postmigrate},
    {RunState::paused, RunState::internal_error},
    {RunState::paused, RunState::shutdown},

    {RunState::finish_migrate, RunState::running},
    {RunState::finish_migrate, RunState::paused},
    {RunState::finish_migrate, RunState::prelaunch},
    {RunState::finish_migrate, RunState::postmigrate},
    {RunState::finish_migrate, RunState::guest_panicked},
    {RunState::finish_migrate, RunState::internal_error},
    {RunState::finish_migrate, RunState::shutdown},

    {RunState::postmigrate, RunState::paused},
    {RunState::postmigrate, RunState::shutdown},

    {RunState::save_vm, RunState::running},
    {RunState::save_vm, RunState::paused},
    {RunState::save_vm, RunState::guest_panicked},
    {RunState::save_vm, RunState::internal_error},
    {RunState::save_vm, RunState::shutdown},

    {RunState::guest_panicked, RunState::paused},
    {RunState::guest_panicked, RunState::shutdown},
    {RunState::io_error, RunState::running},
    {RunState::io_error, RunState::shutdown},
    {RunState::internal_error, RunState::running},
    {RunState::internal_error, RunState::paused},
    {RunState::internal_error, RunState::shutdown},
};

}  // namespace

std::string_view to_string(RunState state) {
  for (const auto& [known, name] : kNames)
    if (known == state) return name;
  return "unknown";
}

std::optional<RunState> run_state_from(std::string_view name) {
  for (const auto& [state, known] : kNames)
    if (known == name) return state;
  return std::nullopt;
}

std::span<const RunStateArc> run_state_arcs() {
  return kArcs;
}

bool run_state_arc_exists(RunState from, RunState to) {
  return std::ranges::any_of(kArcs, [&](const RunStateArc& arc) { return arc.from == from && arc.to == to; });
}

}  // namespace handover
