#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "handover/base/result.h"
#include "handover/vfio/device.h"

namespace handover::vfio {

/// How it is learnt what devices wrote by DMA; the best first.
enum class TrackerKind {
  device,   ///< the device logs its own writes
  iommufd,  ///< the page table of the host's IOMMU has dirty bits
  type1,    ///< the container knows which pages drivers of mediated devices pinned or wrote
  all,      ///< nobody knows: all pages, always
};
inline constexpr TrackerKind kTrackerKinds[] = {TrackerKind::device, TrackerKind::iommufd, TrackerKind::type1,
                                                TrackerKind::all};
std::string_view to_string(TrackerKind kind);
std::optional<TrackerKind> tracker_kind_from(std::string_view text);

/// Learns which pages the devices of one DMA address space (container) wrote.
///
/// start(), stop() and report() come from the migration's thread; change() may come from another one
/// meanwhile, one at a time.
class DmaTracker {
 public:
  virtual ~DmaTracker() = default;
  virtual TrackerKind kind() const = 0;
  /// Tracks writes from now on.  `reach` is all that devices can ever be given, `mapped` covers what they
  /// have now; if the first is too much, at least the second is tracked, in ranges as coarse as need be.
  virtual Status start(std::span<const IovaRange> reach, std::span<const IovaRange> mapped) = 0;
  /// Idempotent.
  virtual void stop() = 0;
  /// True if every write into the range has been tracked since the last start().  Any thread.
  virtual bool covers(const IovaRange& range) const = 0;
  /// Hands what was written in the range since its last report to `to`, in any number of reports; of what is
  /// not covered nothing is said.  A mapping that the range cuts may be reported as a whole.
  virtual Status report(const IovaRange& range, const DirtyReportSink& to) = 0;
  /// Changes mappings; what an unmapped range had not reported yet goes to `dirt`.  This is the tracker's to
  /// do because it knows whether to ask before a mapping goes (iommufd), with it (vfio-user, type1), or
  /// after.
  virtual void change(std::span<DmaChange> changes, const DirtyReportSink& dirt) = 0;
};

/// What one DMA address space has to offer: a tracker, or the reason why there is none of that kind.
struct TrackerOffer {
  TrackerKind kind = TrackerKind::all;
  std::unique_ptr<DmaTracker> tracker;  ///< null: not possible
  std::string why_not;                  ///< "device0 has no DMA log"
};

/// The offers of a device that is alone in its address space: its own log, if it has one, what the host's
/// IOMMU before it has (Device::iommu_offers), and "all pages".
std::vector<TrackerOffer> offers_of(Device& device);

/// How mappings of an address space are changed, and what the devices' logs knew of those that went is told.
using ChangeMappings = std::function<void(std::span<DmaChange> changes, const DirtyReportSink& dirt)>;
/// The tracker of device logs; `devices` share the address space, outlive it, and have a log each.
std::unique_ptr<DmaTracker> make_device_log_tracker(std::vector<Device*> devices, ChangeMappings change);
/// Reports every mapping as written, always; `device` makes the changes.
std::unique_ptr<DmaTracker> make_all_pages_tracker(Device& device);

}  // namespace handover::vfio
