#include "check/bench.h"

#include <algorithm>

namespace handover::check {

using vfio::DeviceState;
using vfio::to_string;

Bench::Bench(vfio::Device& device, GuestMemory& memory, const Options& options, CancelToken cancel)
    : device_(device), memory_(memory), options_(options), cancel_(std::move(cancel)) {
  // The device may be lost long after the bench is gone.
  device_.on_lost([loss = loss_](const std::string& reason) {
    std::lock_guard lock(loss->mutex);
    loss->reason = reason;
  });
}

std::string Bench::loss() const {
  std::lock_guard lock(loss_->mutex);
  return loss_->reason.empty() ? "the device was lost" : loss_->reason;
}

Status Bench::is_refusal(const Error& error) {
  const auto code = error.code();
  if (lost() || code == Errc::timeout || code == Errc::closed || code == Errc::cancelled)
    return std::unexpected(error);
  return {};
}

Status Bench::expect(DeviceState wanted) {
  HANDOVER_ASSIGN_CONTEXT(const auto now, migration().state(), "the state could not be read");
  if (now == wanted) return {};
  return fail(Errc::state, "the device says that it is in {} instead of {}", to_string(now),
              to_string(wanted));
}

Status Bench::ask(DeviceState to) {
  HANDOVER_TRY(cancel_.check());
  HANDOVER_ASSIGN_CONTEXT(const auto from, migration().state(), "the state could not be read");
  touched_ = touched_ || to == DeviceState::resuming;
  HANDOVER_TRY_CONTEXT(migration().set_state(to), "asked to go from {} to {}", to_string(from),
                       to_string(to));
  HANDOVER_TRY_CONTEXT(expect(to), "asked to go from {} to {}, which was granted", to_string(from),
                       to_string(to));
  return {};
}

Status Bench::enter(DeviceState to) {
  HANDOVER_ASSIGN_CONTEXT(const auto from, migration().state(), "the state could not be read");
  HANDOVER_ASSIGN(const auto path, vfio::path_between(from, to, features()));
  for (const auto next : path)
    HANDOVER_TRY(ask(next));
  return {};
}

Status Bench::refuses(std::uint32_t number) {
  HANDOVER_ASSIGN_CONTEXT(const auto from, migration().state(), "the state could not be read");
  const auto to = static_cast<DeviceState>(number);
  const auto what = vfio::device_state_from(number)
                        ? fmt::format("a request to go from {} to {}", to_string(from), to_string(to))
                        : fmt::format("a request to go from {} to state number {}", to_string(from), number);
  HANDOVER_TRY(refused(migration().set_state(to), what));
  HANDOVER_TRY_CONTEXT(expect(from), "{} was refused, and yet", what);
  return {};
}

Status Bench::reset() {
  touched_ = true;
  HANDOVER_TRY_CONTEXT(device_.reset(), "the device could not be reset");
  return {};
}

Status Bench::settle() {
  // A log that cannot be stopped is found by the next check of the log.
  if (logging_) (void)stop_log();
  HANDOVER_ASSIGN_CONTEXT(auto now, migration().state(), "the state could not be read");
  if (now == DeviceState::running) return {};
  const bool can_walk = vfio::path_between(now, DeviceState::running, features()).has_value();
  const bool resettable = device_.info().flags & vfio::kDeviceFlagReset;
  // Any arc out of RESUMING would judge what has come so far; a reset gives it up.
  if (can_walk && !(now == DeviceState::resuming && resettable) &&
      migration().set_state(DeviceState::running) && expect(DeviceState::running))
    return {};
  HANDOVER_TRY_CONTEXT(reset(), "the device stays in {}", to_string(now));
  if (expect(DeviceState::running)) return {};
  // Some servers reset the device and leave its migration state.
  HANDOVER_ASSIGN_CONTEXT(now, migration().state(), "the state could not be read");
  HANDOVER_TRY_CONTEXT(migration().set_state(DeviceState::running), "a reset left the device in {}",
                       to_string(now));
  return expect(DeviceState::running);
}

Status Bench::start_log(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges) {
  HANDOVER_TRY(cancel_.check());
  // Also when it fails: what a device makes of it is not known then.
  logging_ = true;
  return log().start(page_size, ranges);
}

Status Bench::stop_log() {
  logging_ = false;
  return log().stop();
}

vfio::IovaRange Bench::reachable() const {
  const auto& range = memory_.ranges().front();
  return {Iova{range.start.value}, range.size};
}

}  // namespace handover::check
