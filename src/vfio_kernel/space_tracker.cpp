#include "vfio_kernel/space_tracker.h"

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "handover/base/trace.h"

namespace handover::vfio_kernel {

Status SpaceTracker::start(std::span<const vfio::IovaRange>, std::span<const vfio::IovaRange>) {
  stop();
  const auto lock = space_.hold();
  HANDOVER_TRY_CONTEXT(turn_on(), "starting the dirty tracking of {}", space_.name());
  on_ = true;
  return {};
}

// Tracking that would not end costs time and nothing else: the next start clears what it knows.
void SpaceTracker::stop() {
  const auto lock = space_.hold();
  if (!on_.exchange(false)) return;
  if (const auto stopped = turn_off(); !stopped)
    HANDOVER_TRACE(dma_log_stop_failed, space_.name().c_str(), stopped.error().sys_errno());
}

std::size_t SpaceTracker::words_for(const vfio::IovaRange& range) const {
  return (range.size - 1) / page_size_ / 64 + 1;
}

Status SpaceTracker::report(const vfio::IovaRange& range, const vfio::DirtyReportSink& to) {
  constexpr auto kAll = std::numeric_limits<std::uint64_t>::max();
  const auto most = most_pages_ > kAll / page_size_ ? kAll : most_pages_ * page_size_;
  std::vector<std::uint64_t> words;
  for (auto left = range;;) {
    std::optional<vfio::IovaRange> run;
    {
      const auto lock = space_.hold();
      run = on_ ? space_.next_run(left, most) : std::nullopt;
      if (!run) return {};
      words.assign(words_for(*run), 0);
      HANDOVER_TRY_CONTEXT(read(*run, words), "reading what was written in [{:#x}, +{:#x}) of {}",
                           run->start.value, run->size, space_.name());
    }
    HANDOVER_TRY(to({.range = *run, .page_size = page_size_, .bits = std::as_bytes(std::span(words))}));
    const auto last = left.start.value + (left.size - 1);
    const auto done = run->start.value + (run->size - 1);
    if (done >= last) return {};
    left = {Iova{done + 1}, last - done};
  }
}

void SpaceTracker::change(std::span<vfio::DmaChange> changes, const vfio::DirtyReportSink& dirt) {
  for (auto& change : changes)
    change.result = change.kind == vfio::DmaChange::Kind::map
                        ? space_.map(change.mapping)
                        : unmap({change.mapping.iova, change.mapping.size}, dirt);
}

Status SpaceTracker::unmap(const vfio::IovaRange& range, const vfio::DirtyReportSink& dirt) {
  struct Gone {
    vfio::IovaRange mapping;
    bool known = false;
    std::vector<std::uint64_t> words = {};
  };
  std::vector<Gone> all;
  Status unmapped;
  {
    const auto lock = space_.hold();
    unmapped = space_.unmap_by(range, [&](const vfio::IovaRange& mapping) -> Status {
      Gone gone{.mapping = mapping};
      if (on_) {
        gone.words.assign(words_for(mapping), 0);
        HANDOVER_ASSIGN(gone.known, take_and_read(mapping, gone.words));
      } else {
        HANDOVER_TRY(space_.take_away(mapping));
      }
      all.push_back(std::move(gone));
      return {};
    });
  }
  for (const auto& gone : all)
    HANDOVER_TRY(dirt(gone.known ? vfio::DirtyReport{.range = gone.mapping,
                                                     .page_size = page_size_,
                                                     .bits = std::as_bytes(std::span(gone.words))}
                                 : vfio::DirtyReport::everything(gone.mapping)));
  return unmapped;
}

}  // namespace handover::vfio_kernel
