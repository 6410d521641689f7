#include "handover/vfio/dma_tracker.h"

#include <algorithm>

#include "vfio/device_log_tracker.h"

namespace handover::vfio {
namespace {

/// For devices of which nobody knows what they write.
class AllPagesTracker final : public DmaTracker {
 public:
  explicit AllPagesTracker(Device& device) : device_(device) {}
  TrackerKind kind() const override { return TrackerKind::all; }
  Status start(std::span<const IovaRange>, std::span<const IovaRange>) override { return {}; }
  void stop() override {}
  bool covers(const IovaRange&) const override { return true; }
  Status report(const IovaRange& range, const DirtyReportSink& to) override {
    return to(DirtyReport::everything(range));
  }
  void change(std::span<DmaChange> changes, const DirtyReportSink& dirt) override {
    const DirtyReportSink all = [&](const DirtyReport& report) {
      return dirt(DirtyReport::everything(report.range));
    };
    device_.dma_change(changes, &all);
  }

 private:
  Device& device_;
};

}  // namespace

std::string_view to_string(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::device:
      return "device";
    case TrackerKind::iommufd:
      return "iommufd";
    case TrackerKind::type1:
      return "type1";
    case TrackerKind::all:
      break;
  }
  return "all";
}

std::optional<TrackerKind> tracker_kind_from(std::string_view text) {
  const auto* kind = std::ranges::find(kTrackerKinds, text, [](TrackerKind each) { return to_string(each); });
  if (kind == std::end(kTrackerKinds)) return std::nullopt;
  return *kind;
}

std::unique_ptr<DmaTracker> make_all_pages_tracker(Device& device) {
  return std::make_unique<AllPagesTracker>(device);
}

std::unique_ptr<DmaTracker> make_device_log_tracker(std::vector<Device*> devices, ChangeMappings change) {
  return std::make_unique<DeviceLogTracker>(std::move(devices), std::move(change));
}

std::vector<TrackerOffer> offers_of(Device& device) {
  std::vector<TrackerOffer> offers;
  if (device.dma_log())
    offers.push_back(
        {.kind = TrackerKind::device,
         .tracker = make_device_log_tracker(
             {&device}, [&device](std::span<DmaChange> changes,
                                  const DirtyReportSink& dirt) { device.dma_change(changes, &dirt); }),
         .why_not = {}});
  else
    offers.push_back({TrackerKind::device, nullptr, fmt::format("device `{}` has no DMA log", device.id())});
  for (auto& offer : device.iommu_offers())
    offers.push_back(std::move(offer));
  offers.push_back({TrackerKind::all, make_all_pages_tracker(device), {}});
  return offers;
}

}  // namespace handover::vfio
