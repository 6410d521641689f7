#include "vfio/device_log_tracker.h"

#include "handover/base/trace.h"
#include "handover/vfio/iova_ranges.h"

namespace handover::vfio {
namespace {

// Room for mappings that are still to come: half as much again at the end of each range.
std::vector<IovaRange> with_slack(std::span<const IovaRange> ranges) {
  std::vector<IovaRange> wide(ranges.begin(), ranges.end());
  for (auto& range : wide) {
    const auto more = align_up(range.size / 2, kPageSize);
    if (range.start.value + (range.size - 1) <= ~std::uint64_t{0} - more) range.size += more;
  }
  return wide;
}

// What a device may be asked to log, from the best to the coarsest: devices are limited in the number of
// ranges, or in how much they log, and say only yes or no.
std::vector<std::vector<IovaRange>> attempts_for(std::size_t most, std::span<const IovaRange> reach,
                                                 std::span<const IovaRange> mapped) {
  std::vector<std::vector<IovaRange>> attempts;
  attempts.push_back(merge_ranges({reach.begin(), reach.end()}, most));
  attempts.push_back(merge_ranges(with_slack(mapped), most));
  attempts.push_back(merge_ranges({mapped.begin(), mapped.end()}, most));
  while (attempts.back().size() > 1)
    attempts.push_back(merge_ranges(attempts.back(), (attempts.back().size() + 1) / 2));
  return attempts;
}

}  // namespace

DeviceLogTracker::DeviceLogTracker(std::vector<Device*> devices, ChangeMappings change)
    : change_(std::move(change)) {
  for (auto* device : devices)
    logs_.push_back({.device = device, .armed = {}});
}

Status DeviceLogTracker::arm(Logging& log, std::span<const IovaRange> reach,
                             std::span<const IovaRange> mapped) {
  auto& device_log = *log.device->dma_log();
  if (log.left_on) disarm(log);
  Status started;
  for (const auto& ranges : attempts_for(device_log.max_ranges(), reach, mapped)) {
    // To some devices no range at all means everything, to others it is an error.
    if (ranges.empty()) {
      disarm(log);
      return {};
    }
    log.left_on = true;  // also after a failure it may be
    started = device_log.start(kPageSize, ranges);
    HANDOVER_TRACE(dma_log_start, log.device->id().c_str(), ranges.size(), started ? 1 : 0);
    if (started) {
      log.armed = ranges;
      return {};
    }
    if (log.device->lost()) break;
  }
  disarm(log);
  return std::unexpected(std::move(started).error().with_context(
      fmt::format("starting the DMA log of device `{}`", log.device->id())));
}

// A device that is gone, or forgot its log in a reset, has nothing left to stop; any other is told again
// before the next start, which it may refuse while the log is on.
void DeviceLogTracker::disarm(Logging& log) {
  log.armed.clear();
  if (!log.left_on) return;
  auto stopped = log.device->dma_log()->stop();
  log.left_on = !stopped;
  if (!stopped) HANDOVER_TRACE(dma_log_stop_failed, log.device->id().c_str(), stopped.error().sys_errno());
}

Status DeviceLogTracker::start(std::span<const IovaRange> reach, std::span<const IovaRange> mapped) {
  stop();
  std::vector<IovaRange> common;
  for (auto& log : logs_) {
    if (auto armed = arm(log, reach, mapped); !armed) {
      stop();
      return armed;
    }
    if (&log == &logs_.front()) {
      common = log.armed;
      continue;
    }
    std::vector<IovaRange> both;
    for (const auto& range : common)
      for (const auto& part : common_parts(log.armed, range))
        both.push_back(part);
    common = std::move(both);
  }
  std::lock_guard lock(mutex_);
  covered_ = std::move(common);
  return {};
}

void DeviceLogTracker::stop() {
  {
    // First: whoever unmaps from now on must not trust the logs.
    std::lock_guard lock(mutex_);
    covered_.clear();
  }
  for (auto& log : logs_)
    if (!log.armed.empty()) disarm(log);
}

bool DeviceLogTracker::covers(const IovaRange& range) const {
  std::lock_guard lock(mutex_);
  return covered(covered_, range);
}

Status DeviceLogTracker::report(const IovaRange& range, const DirtyReportSink& to) {
  for (auto& log : logs_)
    for (const auto& part : common_parts(log.armed, range)) {
      auto& device_log = *log.device->dma_log();
      HANDOVER_ASSIGN_CONTEXT(const auto bits, device_log.report(part), "reading the DMA log of device `{}`",
                              log.device->id());
      HANDOVER_TRY_CONTEXT(to({.range = part, .page_size = device_log.page_size(), .bits = bits}),
                           "the DMA log of device `{}`", log.device->id());
    }
  return {};
}

void DeviceLogTracker::change(std::span<DmaChange> changes, const DirtyReportSink& dirt) {
  change_(changes, [&](const DirtyReport& report) {
    return covers(report.range) ? dirt(report) : dirt(DirtyReport::everything(report.range));
  });
}

}  // namespace handover::vfio
