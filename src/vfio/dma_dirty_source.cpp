#include "handover/vfio/dma_dirty_source.h"

#include <algorithm>

#include "handover/base/log.h"
#include "handover/base/trace.h"

namespace handover::vfio {
namespace {

std::string_view describe(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::device:
      return "the device logs its own DMA";
    case TrackerKind::iommufd:
      return "the IOMMU's page table has dirty bits";
    case TrackerKind::type1:
      return "the container knows the pinned pages";
    case TrackerKind::all:
      break;
  }
  return "all pages are taken as dirty";
}

/// Keeps a view held.
class Held {
 public:
  explicit Held(DmaView& view) : view_(view) { view_.hold(); }
  ~Held() { view_.release(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  DmaView& view_;
};

}  // namespace

DmaDirtySource::DmaDirtySource(std::string who, std::vector<TrackerOffer> offers, DmaView& view,
                               const DirtyTrackingOptions& options)
    : who_(std::move(who)), offers_(std::move(offers)), view_(view), options_(options) {
}

Result<std::unique_ptr<DmaDirtySource>> DmaDirtySource::create(std::string who,
                                                               std::vector<TrackerOffer> offers,
                                                               DmaView& view,
                                                               const DirtyTrackingOptions& options) {
  std::ranges::stable_sort(offers, {}, &TrackerOffer::kind);
  std::unique_ptr<DmaDirtySource> self(new DmaDirtySource(std::move(who), std::move(offers), view, options));
  HANDOVER_TRY(self->choose(0));
  return self;
}

// The first from there on that is possible; what stood against the better ones is the reason.
Status DmaDirtySource::choose(std::size_t from) {
  std::string reason;
  for (std::size_t i = 0; i < offers_.size(); ++i) {
    const auto& offer = offers_[i];
    const bool wanted = !options_.tracker || offer.kind == *options_.tracker;
    if (wanted && i >= from && offer.tracker) {
      chosen_ = i;
      if (options_.tracker) reason = fmt::format("dirty-page-tracking={}; ", to_string(offer.kind));
      std::lock_guard lock(mutex_);
      choice_ = {offer.kind, options_.pre_copy, reason + std::string(describe(offer.kind))};
      return {};
    }
    if (wanted && !offer.why_not.empty()) reason += offer.why_not + "; ";
  }
  if (reason.ends_with("; ")) reason.resize(reason.size() - 2);
  if (!options_.tracker) return fail(Errc::unsupported, "{}: nothing tracks its DMA: {}", who_, reason);
  return fail(Errc::unsupported,
              "{}: dirty-page-tracking={} is not possible{}{}; leave it out for the best "
              "that there is",
              who_, to_string(*options_.tracker), reason.empty() ? "" : ": ", reason);
}

TrackerChoice DmaDirtySource::choice() const {
  std::lock_guard lock(mutex_);
  return choice_;
}

std::string DmaDirtySource::name() const {
  return fmt::format("{} ({})", who_, choice().reason);
}

std::optional<DirtyTracking> DmaDirtySource::tracking() const {
  auto choice = this->choice();
  return DirtyTracking{who_, std::string(to_string(choice.kind)), choice.pre_copy, std::move(choice.reason)};
}

// Once it returns, every change of mappings that is under way knows of it.
void DmaDirtySource::use(DmaTracker* tracker) {
  std::unique_lock lock(mutex_);
  active_ = tracker;
  changed_.wait(lock, [this, begun = changes_begun_] { return changes_ended_ >= begun; });
}

void DmaDirtySource::change(Device& device, std::span<DmaChange> changes, const DirtyReportSink& dirt) {
  DmaTracker* tracker = nullptr;
  {
    std::lock_guard lock(mutex_);
    ++changes_begun_;
    tracker = active_;
  }
  if (tracker)
    tracker->change(changes, dirt);
  else
    device.dma_change(changes, nullptr);
  {
    std::lock_guard lock(mutex_);
    ++changes_ended_;
  }
  changed_.notify_all();
}

// Changes ask for what was written before the log is on, and are told "everything": nothing falls between.
Status DmaDirtySource::start_one() {
  auto& tracker = *offers_[chosen_].tracker;
  use(&tracker);
  auto started = tracker.start(view_.reach(), view_.mapped());
  if (!started) use(nullptr);
  return started;
}

Status DmaDirtySource::start() {
  HANDOVER_TRY(choose(0));
  return start_again();
}

// With the tracker that is chosen, or the best of those after it.
Status DmaDirtySource::start_again() {
  for (;;) {
    auto started = start_one();
    HANDOVER_TRACE(dma_tracking, who_.c_str(), static_cast<std::uint32_t>(offers_[chosen_].kind),
                   started ? 1 : 0);
    if (started) {
      if (offers_[chosen_].kind == TrackerKind::all && options_.pre_copy)
        log::warn(
            "{}: {}; memory never becomes clean while it runs, so the migration ends only if all of RAM "
            "fits into the downtime, or with pre-copy-dirty-page-tracking=off",
            who_, choice().reason);
      return {};
    }
    if (options_.tracker || chosen_ + 1 == offers_.size()) return started;
    offers_[chosen_].why_not = started.error().to_string();
    if (!choose(chosen_ + 1)) return started;
    log::warn("{}: {}", who_, choice().reason);
  }
}

void DmaDirtySource::stop() {
  use(nullptr);
  offers_[chosen_].tracker->stop();
}

Status DmaDirtySource::mark_everything(DirtyMemory& to) {
  for (const auto& range : view_.mapped())
    HANDOVER_TRY(view_.mark(DirtyReport::everything(range), to));
  return {};
}

Status DmaDirtySource::report(DirtyMemory& to, bool& all_covered) {
  auto& tracker = *offers_[chosen_].tracker;
  for (const auto& range : view_.mapped()) {
    HANDOVER_TRY(tracker.report(range, [&](const DirtyReport& report) -> Status {
      HANDOVER_ASSIGN(const auto found, view_.mark(report, to));
      HANDOVER_TRACE(dma_log_report, who_.c_str(), report.range.start.value, report.range.size, found);
      return {};
    }));
    if (tracker.covers(range)) continue;
    all_covered = false;
    HANDOVER_TRY(view_.mark(DirtyReport::everything(range), to));
  }
  return {};
}

Status DmaDirtySource::sync(DirtyMemory& to, DirtySync which) {
  if (!options_.pre_copy && which == DirtySync::round) return {};
  const Held held(view_);
  bool all_covered = true;
  HANDOVER_TRY(report(to, all_covered));
  if (all_covered || which == DirtySync::last) return {};
  // There are mappings that the log was not started for.  What is written while it is off is not known, so
  // everything is; it has room to grow, so that this happens seldom.
  HANDOVER_TRY(start_again());
  return mark_everything(to);
}

}  // namespace handover::vfio
