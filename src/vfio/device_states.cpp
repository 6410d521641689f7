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
  if (from == DeviceState::error) return fit();
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
  const auto now = protocol->state();
  // A device that does not say where it is may still do as it is told.
  if (!now || (*now != DeviceState::error && path_between(*now, recovery, protocol->features()))) {
    const bool there = now && *now == recovery;
    if (there || protocol->set_state(recovery)) {
      arrive(recovery, asked);
      return std::unexpected(std::move(cause).with_context(fmt::format(
          "device `{}` {} {}", device_.id(), there ? "is in" : "was taken back to", to_string(recovery))));
    }
  }
  HANDOVER_TRY(reset(recovery, cause));
  log::error("device `{}` was reset: {}", device_.id(), cause.to_string());
  return std::unexpected(std::move(cause).with_context(
      fmt::format("device `{}` was reset and has lost its state", device_.id())));
}

// The last step of the ladder.  A device comes out of it in RUNNING.
Status DeviceMigration::reset(DeviceState after, const Error& cause) {
  const auto asked = std::chrono::steady_clock::now();
  if (auto reset = device_.reset(); !reset) {
    if (device_.lost()) return std::unexpected(cause);
    arrive(DeviceState::error, asked);
    auto why = fmt::format("device `{}` is dead: {}, and then its reset failed: {}", device_.id(),
                           cause.to_string(), reset.error().to_string());
    log::error("{}", why);
    std::lock_guard lock(dead_mutex_);
    dead_ = std::move(why);
    return fail(Errc::device, "{}", dead_);
  }
  ++resets_;
  arrive(DeviceState::running, asked);
  if (after != DeviceState::stop) return {};
  if (auto stopped = device_.migration()->set_state(DeviceState::stop); stopped)
    arrive(DeviceState::stop, asked);
  else
    log::error("device `{}` does not stop after its reset: {}", device_.id(), stopped.error().to_string());
  return {};
}

Status DeviceMigration::fit() const {
  std::lock_guard lock(dead_mutex_);
  if (dead_.empty()) return {};
  return fail(Errc::device, "{}", dead_);
}

// Who starts a machine with a dead device, or loads into it, wants it to be tried once more.
Status DeviceMigration::revive() {
  if (last_state() != DeviceState::error) return {};
  const auto asked = std::chrono::steady_clock::now();
  if (auto reset = device_.reset(); !reset) {
    log::error("device `{}` is still dead: {}", device_.id(), reset.error().to_string());
    return fit();
  }
  ++resets_;
  arrive(DeviceState::running, asked);
  log::error("device `{}` was reset at last and has lost its state", device_.id());
  std::lock_guard lock(dead_mutex_);
  dead_.clear();
  return {};
}

// In STOP_COPY a device holds its state as well as in STOP: it is not reset only because it does not leave.
Status DeviceMigration::leave_stop_copy() {
  auto* protocol = device_.migration();
  const auto asked = std::chrono::steady_clock::now();
  auto left = protocol->set_state(DeviceState::stop);
  if (left) {
    arrive(DeviceState::stop, asked);
    return {};
  }
  auto error = std::move(left).error().with_context(
      fmt::format("device `{}` does not go from stop-copy to stop", device_.id()));
  if (const auto now = protocol->state(); !now || *now == DeviceState::stop_copy)
    return std::unexpected(std::move(error));
  return recover(DeviceState::stop, std::move(error));
}

// After a migration that did not happen: from wherever the device is to where the machine is.
Status DeviceMigration::leave_migration() {
  if (!std::exchange(migrating_, false) || device_.lost()) return {};
  const auto before = last_state();
  if (before == DeviceState::error) return {};
  const auto asked = std::chrono::steady_clock::now();
  const auto now = device_.migration()->state();
  if (before == DeviceState::resuming) {
    // Leaving RESUMING would judge a state that is not complete; only a reset abandons it.
    if (!now || *now == before || *now == DeviceState::error)
      return reset(DeviceState::running,
                   Error(Errc::device, fmt::format("device `{}` was loaded in part", device_.id())));
  }
  // A call that was no change of state may have left it in ERROR, or elsewhere.
  if (now && *now != before) arrive(*now, asked);
  const auto home = before == DeviceState::running || before == DeviceState::pre_copy ? DeviceState::running
                    : before == DeviceState::running_p2p || before == DeviceState::pre_copy_p2p
                        ? DeviceState::running_p2p
                        : DeviceState::stop;
  const auto recovery = home == DeviceState::stop ? DeviceState::stop : DeviceState::running;
  if (last_state() == DeviceState::error)
    return recover(recovery,
                   Error(Errc::device, fmt::format("device `{}` is in the error state", device_.id())));
  if (last_state() == DeviceState::stop_copy) return leave_stop_copy();
  return enter(home, recovery);
}

// One that had to be reset on the way has lost its state, which was said, and the guest goes on with it as it
// is.  Not so at a destination: there the source still has the state.
Status DeviceMigration::start(DeviceState to, RunState from) {
  const auto resets = resets_;
  auto entered = enter(to, DeviceState::stop);
  if (entered || resets_ == resets || from == RunState::inmigrate) return entered;
  return enter(to, DeviceState::stop);
}

Status DeviceMigration::prepare(RunState from, RunState to) {
  if (!device_.migration()) return {};
  if (device_.lost()) {
    // A lost device follows nothing any more; the guest has been told by its reads of all ones.  One that
    // arrives here would be lost by the migration.
    if (from != RunState::inmigrate || to != RunState::running) return {};
    return fail(Errc::device, "device `{}` was lost after its state had been loaded", device_.id());
  }
  std::lock_guard lock(device_mutex_);
  if (to == RunState::running) HANDOVER_TRY(revive());
  if (!has(kMigrationP2p)) return {};
  const auto state = last_state();
  if (from == RunState::running) {
    if (state == DeviceState::pre_copy) return enter(DeviceState::pre_copy_p2p, DeviceState::running);
    if (state == DeviceState::running) return enter(DeviceState::running_p2p, DeviceState::running);
  } else if (to == RunState::running && state != DeviceState::running) {
    return start(DeviceState::running_p2p, from);
  }
  return {};
}

Status DeviceMigration::change(RunState from, RunState to) {
  if (!device_.migration() || device_.lost()) return {};
  std::unique_lock lock(device_mutex_);
  if (to == RunState::running) {
    HANDOVER_TRY(start(DeviceState::running, from));
    // A saving session that was cut by the machine running again can not be taken up (mission C5).
    saving_.store(false, std::memory_order_relaxed);
    return {};
  }
  if (from == RunState::running) {
    const bool in_session =
        last_state() == DeviceState::pre_copy || last_state() == DeviceState::pre_copy_p2p;
    const bool snapshot = to == RunState::save_vm;  // straight into the saving state (mission A5)
    const auto target = in_session || snapshot ? DeviceState::stop_copy : DeviceState::stop;
    auto stopped = enter(target, DeviceState::stop);
    lock.unlock();
    config_.collect_interrupts();
    return stopped;
  }
  if (to == RunState::postmigrate) migrating_ = false;
  const bool being_saved = to == RunState::finish_migrate || to == RunState::save_vm;
  if (!being_saved && last_state() == DeviceState::stop_copy) return leave_stop_copy();
  return {};
}

}  // namespace handover::vfio
