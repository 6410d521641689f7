#include "solo/observed_migration.h"

#include <algorithm>

#include "handover/base/units.h"

namespace handover::solo {
namespace {

using Seconds = std::chrono::duration<double>;

/// A round of a device that announced nothing and yet does not run dry.
constexpr std::uint64_t kUnannounced = 32 * MiB;

}  // namespace

Result<Pending> ObservedMigration::pending(bool exact) {
  HANDOVER_ASSIGN(auto left, DeviceMigration::pending(exact));
  if (last_state() == vfio::DeviceState::pre_copy && policy_.hold(left.total(), left.can_precopy, exact))
    left.hold_switchover = true;
  std::lock_guard lock(mutex_);
  if (!exact) return left;
  figures_.stop_told_bytes.reset();
  figures_.stop_expected_ms.reset();
  if (left.size_unknown) return left;
  figures_.stop_told_bytes = left.total();
  figures_.stop_expected_ms = policy_.expected_ms(left.total());
  return left;
}

void ObservedMigration::begin_round() {
  round_.emplace();
  const auto info = device_.migration()->precopy_info();
  if (!info || !*info) return;
  round_->initial_bytes = (*info)->initial_bytes;
  round_->dirty_bytes = (*info)->dirty_bytes;
}

void ObservedMigration::end_round(bool ran_dry) {
  round_->ran_dry = ran_dry;
  policy_.round_ended();
  std::lock_guard lock(mutex_);
  ++figures_.round_count;
  if (figures_.rounds.size() < DeviceFigures::kRoundsKept) figures_.rounds.push_back(*round_);
  round_.reset();
}

Result<Iterated> ObservedMigration::save_iterate(StreamWriter& out, const IterateBudget& budget) {
  if (last_state() != vfio::DeviceState::pre_copy) return DeviceMigration::save_iterate(out, budget);
  if (!round_) begin_round();
  const auto bytes_before = counters().bytes;
  const auto begin = Clock::now();
  HANDOVER_ASSIGN(const auto outcome, DeviceMigration::save_iterate(out, budget));
  const auto bytes = counters().bytes - bytes_before;
  const double seconds = Seconds(Clock::now() - begin).count();
  policy_.given(bytes, seconds);
  round_->bytes += bytes;
  round_->seconds += seconds;
  {
    std::lock_guard lock(mutex_);
    figures_.precopy_bytes += bytes;
    figures_.precopy_seconds += seconds;
  }
  const auto told = round_->initial_bytes + round_->dirty_bytes;
  const bool dry = outcome == Iterated::nothing_now;
  if (dry || round_->bytes >= (told > 0 ? told : kUnannounced)) end_round(dry);
  return outcome;
}

template <class Save>
Status ObservedMigration::count_stop_copy(const Save& save) {
  const auto bytes_before = counters().bytes;
  const auto begin = Clock::now();
  HANDOVER_TRY(save());
  std::lock_guard lock(mutex_);
  figures_.stop_bytes += counters().bytes - bytes_before;
  figures_.stop_seconds += Seconds(Clock::now() - begin).count();
  return {};
}

Status ObservedMigration::save_complete(StreamWriter& out) {
  return count_stop_copy([&] { return DeviceMigration::save_complete(out); });
}

Status ObservedMigration::save_parallel(PacketSink& to, const CancelToken& cancel) {
  return count_stop_copy([&] { return DeviceMigration::save_parallel(to, cancel); });
}

Status ObservedMigration::load_setup(const LoadOptions& options) {
  auto counted = options;
  counted.report = [this, report = options.report](const LoadProgress& progress) {
    {
      std::lock_guard lock(mutex_);
      figures_.loaded_bytes = progress.bytes;
      figures_.load_seconds = Seconds(std::chrono::nanoseconds(progress.busy_ns)).count();
    }
    if (report) report(progress);
  };
  return DeviceMigration::load_setup(counted);
}

DeviceFigures ObservedMigration::figures() const {
  std::lock_guard lock(mutex_);
  return figures_;
}

}  // namespace handover::solo
