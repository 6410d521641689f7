#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "handover/base/result.h"

/// The VFIO device migration states and arcs of protocol v2.  Source: VFIO uAPI, Linux 6.12
/// (VFIO_DEVICE_FEATURE_MIGRATION, enum vfio_device_mig_state); vfio-user uses the same numbers.
namespace handover::vfio {

enum class DeviceState : std::uint32_t {
  error = 0,
  stop = 1,
  running = 2,
  stop_copy = 3,
  resuming = 4,
  running_p2p = 5,
  pre_copy = 6,
  pre_copy_p2p = 7,
};
inline constexpr std::uint32_t kDeviceStateCount = 8;

/// QEMU's names: "stop", "running", "stop-copy", "resuming", "running-p2p", "pre-copy", "pre-copy-p2p".
std::string_view to_string(DeviceState state);
std::optional<DeviceState> device_state_from(std::uint32_t number);

/// Bits of the MIGRATION feature.
inline constexpr std::uint64_t kMigrationStopCopy = 1;
inline constexpr std::uint64_t kMigrationP2p = 2;
inline constexpr std::uint64_t kMigrationPreCopy = 4;

/// What an arc does to the data session.
enum class Session { none, opens, keeps, ends };

struct DeviceArc {
  DeviceState from;
  DeviceState to;
  std::uint64_t needs;   ///< feature bits that must be present
  std::uint64_t absent;  ///< feature bits that must not be present (shortcuts that P2P devices do not have)
  Session session;
};
/// Every arc that a driver carries out in one step.
std::span<const DeviceArc> device_arcs();
const DeviceArc* find_arc(DeviceState from, DeviceState to, std::uint64_t features);

/// True if a device with these features has the state.
bool state_exists(DeviceState state, std::uint64_t features);

/// The single arcs from one state to another, as the uAPI's rules give them: the shortest path, with no
/// saving state inside it.  Empty path: already there.  Fails for STOP_COPY to a pre-copy state (kernels up
/// to 6.12.95 never return from that request), to or from ERROR, and for states the device lacks.
Result<std::vector<DeviceState>> path_between(DeviceState from, DeviceState to, std::uint64_t features);

inline constexpr bool is_saving(DeviceState state) {
  return state == DeviceState::pre_copy || state == DeviceState::pre_copy_p2p ||
         state == DeviceState::stop_copy;
}
inline constexpr bool may_dma(DeviceState state) {
  return state == DeviceState::running || state == DeviceState::running_p2p ||
         state == DeviceState::pre_copy || state == DeviceState::pre_copy_p2p;
}

}  // namespace handover::vfio
