#pragma once

#include <mutex>
#include <optional>

#include "handover/solo/figures.h"
#include "handover/vfio/device_migration.h"
#include "solo/stop_policy.h"

namespace handover::solo {

/// A device's migration that counts what the device gave and took, and that holds the switchover until a
/// StopPolicy lets it.
class ObservedMigration final : public vfio::DeviceMigration {
 public:
  ObservedMigration(vfio::Device& device, vfio::DeviceConfig& config, std::string path, StopPolicy policy)
      : DeviceMigration(device, config, std::move(path)), device_(device), policy_(policy) {}

  Result<Pending> pending(bool exact) override;
  Result<Iterated> save_iterate(StreamWriter& out, const IterateBudget& budget) override;
  Status save_complete(StreamWriter& out) override;
  Status save_parallel(PacketSink& to, const CancelToken& cancel) override;
  Status load_setup(const LoadOptions& options) override;

  /// Any thread.
  DeviceFigures figures() const;

 private:
  using Clock = std::chrono::steady_clock;

  void begin_round();
  void end_round(bool ran_dry);
  template <class Save>
  Status count_stop_copy(const Save& save);

  vfio::Device& device_;
  // The migration thread's.
  StopPolicy policy_;
  std::optional<PrecopyRound> round_;  // under way

  mutable std::mutex mutex_;  // leaf
  DeviceFigures figures_;
};

}  // namespace handover::solo
