// The device's state follows the machine's run state, and the ladder back when a transition fails.

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/vfio/device_migration.h"

namespace handover::vfio {

std::uint64_t DeviceMigration::features() const {
  auto* protocol = device_.migration();
  return protocol ? protocol->features() & ~left_out_ : 0;
}

void DeviceMigration::arrive(DeviceState at, std::chrono::steady_clock::time_point asked) {
  const auto from = state_.exchange(at, std::memory_order_relaxed);
  if (state_observer_) state_observer_(from, at, std::chrono::steady_clock::now() - asked);
}

Status DeviceMigration::enter(DeviceState to, DeviceState recovery) {
  auto* protocol = device_.migration();
  if (!protocol)
    return fail(Errc::unsupported, "device `{}` cannot migrate: {}", device_.id(),
                device_.migration_blocker());
  const auto from = last_state();
  if (from == to) return {};
  HANDOVER_TRY_CONTEXT(path_between(from, to, protocol->features()), "device `{}`", device_.id());
  HANDOVER_TRACE(device_state_request, device_.id().c_str(), static_cast<int>(from), static_cast<int>(to));
  const auto asked = std::chrono::steady_clock::now();
  auto done = protocol->set_state(to);
  if (done) {
    arrive(to, asked);
    HANDOVER_TRACE(device_state, device_.id().c_str(), static_cast<int>(from), static_cast<int>(to));
    return {};
  }
  return recover(recovery,
                 std::move(done).error().with_context(fmt::format(
                     "device `{}` does not go from {} to {}", device_.id(), to_string(from), to_string(to))));
}

Status DeviceMigration::recover(DeviceState recovery, Error cause) {
  if (device_.lost()) return std::unexpected(std::move(cause));
  auto* protocol = device_.migration();
  const auto asked = std::chrono::steady_clock::now();
  auto now = protocol->state();
  if (now && *now != DeviceState::error && path_between(*now, recovery, protocol->features())) {
    if (protocol->set_state(recovery)) {
      arrive(recovery, asked);
      return std::unexpected(std::move(cause).with_context(
          fmt::format("device `{}` was taken back to {}", device_.id(), to_string(recovery))));
    }
  }
  if (auto reset = device_.reset(); !reset) {
    arrive(DeviceState::error, asked);
    log::error("device `{}` is dead: {}, and then its reset failed: {}", device_.id(), cause.to_string(),
               reset.error().to_string());
    return std::unexpected(std::move(cause).with_context(fmt::format(
        "device `{}` is dead, its reset failed too ({})", device_.id(), reset.error().to_string())));
  }
  arrive(DeviceState::running, asked);
  log::error("device `{}` was reset: {}", device_.id(), cause.to_string());
  return std::unexpected(std::move(cause).with_context(
      fmt::format("device `{}` was reset and has lost its state", device_.id())));
}

Status DeviceMigration::prepare(RunState from, RunState to) {
  // A lost device follows nothing any more; the guest has been told by its reads of all ones.
  if (!device_.migration() || device_.lost() || !has(kMigrationP2p)) return {};
  const auto state = last_state();
  if (from == RunState::running) {
    if (state == DeviceState::pre_copy) return enter(DeviceState::pre_copy_p2p, DeviceState::running);
    if (state == DeviceState::running) return enter(DeviceState::running_p2p, DeviceState::running);
  } else if (to == RunState::running && state != DeviceState::running) {
    return enter(DeviceState::running_p2p, DeviceState::stop);
  }
  return {};
}

Status DeviceMigration::change(RunState from, RunState to) {
  if (!device_.migration() || device_.lost()) return {};
  if (to == RunState::running) {
    HANDOVER_TRY(enter(DeviceState::running, DeviceState::stop));
    // A saving session that was cut by the machine running again can not be taken up (mission C5).
    saving_.store(false, std::memory_order_relaxed);
    return {};
  }
  if (from == RunState::running) {
    const bool in_session =
        last_state() == DeviceState::pre_copy || last_state() == DeviceState::pre_copy_p2p;
    const bool snapshot = to == RunState::save_vm;  // straight into the saving state (mission A5)
    const auto target = in_session || snapshot ? DeviceState::stop_copy : DeviceState::stop;
    HANDOVER_TRY(enter(target, DeviceState::stop));
    config_.collect_interrupts();
    return {};
  }
  const bool being_saved = to == RunState::finish_migrate || to == RunState::save_vm;
  if (!being_saved && last_state() == DeviceState::stop_copy)
    return enter(DeviceState::stop, DeviceState::stop);
  return {};
}

}  // namespace handover::vfio
