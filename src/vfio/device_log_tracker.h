#pragma once

#include <mutex>
#include <vector>

#include "handover/vfio/dma_tracker.h"

namespace handover::vfio {

/// The logs of the devices in one address space: what one of them does not log is not tracked.
class DeviceLogTracker final : public DmaTracker {
 public:
  DeviceLogTracker(std::vector<Device*> devices, ChangeMappings change);

  TrackerKind kind() const override { return TrackerKind::device; }
  Status start(std::span<const IovaRange> reach, std::span<const IovaRange> mapped) override;
  void stop() override;
  bool covers(const IovaRange& range) const override;
  Status report(const IovaRange& range, const DirtyReportSink& to) override;
  void change(std::span<DmaChange> changes, const DirtyReportSink& dirt) override;

 private:
  struct Logging {
    Device* device = nullptr;
    std::vector<IovaRange> armed;  // what its log was started with; empty: it is off
    bool left_on = false;          // it may be on although it is not wanted
  };
  static Status arm(Logging& log, std::span<const IovaRange> reach, std::span<const IovaRange> mapped);
  static void disarm(Logging& log);

  std::vector<Logging> logs_;  // the migration thread's
  const ChangeMappings change_;
  mutable std::mutex mutex_;        // leaf
  std::vector<IovaRange> covered_;  // by all of them
};

}  // namespace handover::vfio
