#include "handover/base/trace.h"
#include "handover/vfio/device_migration.h"

namespace handover::vfio {

DeviceDirtySource::DeviceDirtySource(Device& device, GuestMemory& memory) : device_(device), memory_(memory) {
}

std::string DeviceDirtySource::name() const {
  return fmt::format("device {} ({})", device_.id(),
                     device_.dma_log() ? "its own DMA log" : "no DMA log: all of RAM, always");
}

Status DeviceDirtySource::start() {
  auto* log = device_.dma_log();
  if (!log) return {};
  std::vector<IovaRange> ranges;
  for (const auto& range : memory_.ranges())
    ranges.push_back({Iova{range.start.value}, range.size});
  if (left_on_) stop_log();
  left_on_ = true;  // also after a failure it may be
  HANDOVER_TRY_CONTEXT(log->start(kPageSize, ranges), "starting the DMA log of device `{}`", device_.id());
  started_ = true;
  left_on_ = false;
  return {};
}

Status DeviceDirtySource::sync(DirtyMemory& to) {
  auto* log = device_.dma_log();
  for (const auto& range : memory_.ranges()) {
    if (!log) {
      to.of(*range.block).mark_range(range.offset / kPageSize, range.size / kPageSize);
      continue;
    }
    const auto page_size = log->page_size();
    HANDOVER_ASSIGN_CONTEXT(auto bits, log->report({Iova{range.start.value}, range.size}),
                            "reading the DMA log of device `{}`", device_.id());
    HANDOVER_ASSIGN_CONTEXT(
        auto found,
        to.of(*range.block)
            .import_le(bits, align_up(range.size, page_size) / page_size, range.offset, page_size),
        "the DMA log of device `{}`", device_.id());
    HANDOVER_TRACE(dma_log_report, device_.id().c_str(), range.start.value, range.size, found);
  }
  return {};
}

void DeviceDirtySource::stop() {
  if (std::exchange(started_, false)) stop_log();
}

// A device that is gone, or forgot its log in a reset, has nothing left to stop; any other is told again
// before the next start, which it may refuse while the log is on.
void DeviceDirtySource::stop_log() {
  auto stopped = device_.dma_log()->stop();
  left_on_ = !stopped;
  if (!stopped) HANDOVER_TRACE(dma_log_stop_failed, device_.id().c_str(), stopped.error().sys_errno());
}

}  // namespace handover::vfio
