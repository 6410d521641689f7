#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "handover/memory/dirty_source.h"
#include "handover/vfio/dma_tracker.h"
#include "handover/vfio/dma_view.h"

namespace handover::vfio {

/// What a user says about the dirty tracking of a device.
struct DirtyTrackingOptions {
  /// Empty: the best that there is.
  std::optional<TrackerKind> tracker;
  /// False: what devices write is left out of the passes over memory, and is all sent when they have stopped.
  bool pre_copy = true;

  bool operator==(const DirtyTrackingOptions&) const = default;
};

/// Which tracker is in use, and why that one.
struct TrackerChoice {
  TrackerKind kind = TrackerKind::all;
  bool pre_copy = true;
  std::string reason;  ///< "device `a` has no DMA log; ...; all pages are taken as dirty"
};

/// What the devices of one DMA address space wrote, by the best tracker that there is: of the offers the
/// first that is possible and starts, or the one that the user named.
///
/// start(), sync() and stop() are the migration thread's.  change() comes from one thread at a time, as the
/// guest's IOMMU changes; choice() from any.  The view and what the offers refer to outlive the object.
class DmaDirtySource final : public DirtySource {
 public:
  /// `who` names the devices in messages: "device `a`".  Fails if the tracker that the user named is not
  /// possible.
  static Result<std::unique_ptr<DmaDirtySource>> create(std::string who, std::vector<TrackerOffer> offers,
                                                        DmaView& view, const DirtyTrackingOptions& options);

  std::string name() const override;
  std::optional<DirtyTracking> tracking() const override;
  Status start() override;
  Status sync(DirtyMemory& to, DirtySync which) override;
  void stop() override;

  TrackerChoice choice() const;

  /// Changes mappings of `device`, one of the address space.  While writes are tracked, what was written in a
  /// mapping that goes is handed to `dirt`.
  void change(Device& device, std::span<DmaChange> changes, const DirtyReportSink& dirt);

 private:
  DmaDirtySource(std::string who, std::vector<TrackerOffer> offers, DmaView& view,
                 const DirtyTrackingOptions& options);
  Status choose(std::size_t from);
  void use(DmaTracker* tracker);
  Status start_one();
  Status start_again();
  Status report(DirtyMemory& to, bool& all_covered);
  Status mark_everything(DirtyMemory& to);

  const std::string who_;
  std::vector<TrackerOffer> offers_;
  DmaView& view_;
  const DirtyTrackingOptions options_;
  std::size_t chosen_ = 0;  // of offers_

  mutable std::mutex mutex_;  // leaf; what follows
  std::condition_variable changed_;
  TrackerChoice choice_;
  DmaTracker* active_ = nullptr;  // writes are tracked by it
  std::uint64_t changes_begun_ = 0;
  std::uint64_t changes_ended_ = 0;
};

}  // namespace handover::vfio
