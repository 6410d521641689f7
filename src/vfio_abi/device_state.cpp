#include "handover/vfio_abi/device_state.h"

#include <algorithm>
#include <array>

namespace handover::vfio {
namespace {

using enum DeviceState;

constexpr std::uint64_t kBase = kMigrationStopCopy;
constexpr std::uint64_t kP2p = kBase | kMigrationP2p;
constexpr std::uint64_t kPreCopy = kBase | kMigrationPreCopy;
constexpr std::uint64_t kBoth = kBase | kMigrationP2p | kMigrationPreCopy;

// Source: VFIO uAPI, Linux 6.12, the arcs of the migration state machine.
// clang-format off
constexpr DeviceArc kArcs[] = {
    // from         to            needs     absent         session
    {running,       running_p2p,  kP2p,     0,             Session::none},
    {running_p2p,   running,      kP2p,     0,             Session::none},
    {running_p2p,   stop,         kP2p,     0,             Session::none},
    {stop,          running_p2p,  kP2p,     0,             Session::none},
    {running,       stop,         kBase,    kMigrationP2p, Session::none},
    {stop,          running,      kBase,    kMigrationP2p, Session::none},
    {running,       pre_copy,     kPreCopy, 0,             Session::opens},
    {pre_copy,      running,      kPreCopy, 0,             Session::ends},
    {running_p2p,   pre_copy_p2p, kBoth,    0,             Session::opens},
    {pre_copy_p2p,  running_p2p,  kBoth,    0,             Session::ends},
    {pre_copy,      pre_copy_p2p, kBoth,    0,             Session::keeps},
    {pre_copy_p2p,  pre_copy,     kBoth,    0,             Session::keeps},
    {pre_copy_p2p,  stop_copy,    kBoth,    0,             Session::keeps},
    {pre_copy,      stop_copy,    kPreCopy, kMigrationP2p, Session::keeps},
    {stop,          stop_copy,    kBase,    0,             Session::opens},
    {stop_copy,     stop,         kBase,    0,             Session::ends},
    {stop,          resuming,     kBase,    0,             Session::opens},
    {resuming,      stop,         kBase,    0,             Session::ends},
};
// clang-format on

struct StateName {
  DeviceState state;
  std::string_view name;
  std::uint64_t needs;
};
constexpr StateName kStates[] = {
    {error, "error", 0},
    {stop, "stop", kBase},
    {running, "running", 0},
    {stop_copy, "stop-copy", kBase},
    {resuming, "resuming", kBase},
    {running_p2p, "running-p2p", kP2p},
    {pre_copy, "pre-copy", kPreCopy},
    {pre_copy_p2p, "pre-copy-p2p", kBoth},
};
static_assert(std::size(kStates) == kDeviceStateCount);

constexpr std::size_t index_of(DeviceState state) {
  return static_cast<std::size_t>(state);
}

bool carries(const DeviceArc& arc, std::uint64_t features) {
  return (features & arc.needs) == arc.needs && (features & arc.absent) == 0;
}

// A saving state may start or end a path but not lie inside it; the one exception keeps the session.
bool may_pass(DeviceState before, DeviceState inside, DeviceState after) {
  return !is_saving(inside) || (before == pre_copy && inside == pre_copy_p2p && after == stop_copy);
}

}  // namespace

std::string_view to_string(DeviceState state) {
  return index_of(state) < kDeviceStateCount ? kStates[index_of(state)].name : "unknown";
}

std::optional<DeviceState> device_state_from(std::uint32_t number) {
  if (number >= kDeviceStateCount) return std::nullopt;
  return static_cast<DeviceState>(number);
}

std::span<const DeviceArc> device_arcs() {
  return kArcs;
}

const DeviceArc* find_arc(DeviceState from, DeviceState to, std::uint64_t features) {
  const auto* arc = std::ranges::find_if(kArcs, [&](const DeviceArc& each) {
    return each.from == from && each.to == to && carries(each, features);
  });
  return arc == std::end(kArcs) ? nullptr : arc;
}

bool state_exists(DeviceState state, std::uint64_t features) {
  if (index_of(state) >= kDeviceStateCount) return false;
  const auto needs = kStates[index_of(state)].needs;
  return (features & needs) == needs;
}

Result<std::vector<DeviceState>> path_between(DeviceState from, DeviceState to, std::uint64_t features) {
  for (auto end : {from, to}) {
    if (end == error)
      return fail(Errc::state, "a device cannot go from {} to {}: only a reset leaves the error state",
                  to_string(from), to_string(to));
    if (!state_exists(end, features))
      return fail(Errc::unsupported, "the device has no {} state (migration features {:#x})", to_string(end),
                  features);
  }
  if (from == stop_copy && (to == pre_copy || to == pre_copy_p2p))
    return fail(Errc::state, "a device cannot go back from {} to {}", to_string(from), to_string(to));

  // Breadth first; a state is entered once, so the first way found is the shortest.
  std::array<std::optional<DeviceState>, kDeviceStateCount> came_from;
  std::vector<DeviceState> reached{from};
  for (std::size_t next = 0; next < reached.size() && !(came_from[index_of(to)] || from == to); ++next) {
    const auto here = reached[next];
    for (const auto& arc : kArcs) {
      if (arc.from != here || arc.to == from || came_from[index_of(arc.to)] || !carries(arc, features))
        continue;
      if (here != from && !may_pass(*came_from[index_of(here)], here, arc.to)) continue;
      came_from[index_of(arc.to)] = here;
      reached.push_back(arc.to);
    }
  }
  if (from != to && !came_from[index_of(to)])
    return fail(Errc::state, "a device with migration features {:#x} has no way from {} to {}", features,
                to_string(from), to_string(to));

  std::vector<DeviceState> path;
  for (auto at = to; at != from; at = *came_from[index_of(at)])
    path.push_back(at);
  std::ranges::reverse(path);
  return path;
}

}  // namespace handover::vfio
