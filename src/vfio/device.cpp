#include "handover/vfio/device.h"

#include "handover/vfio/dma_tracker.h"

namespace handover::vfio {

std::vector<TrackerOffer> Device::iommu_offers() {
  std::vector<TrackerOffer> offers;
  offers.push_back({TrackerKind::iommufd, nullptr, "iommufd is not in use"});
  offers.push_back({TrackerKind::type1, nullptr, "no type1 container is in use"});
  return offers;
}

void Device::dma_change(std::span<DmaChange> changes, const DirtyReportSink* dirt) {
  for (auto& change : changes) {
    const IovaRange range{change.mapping.iova, change.mapping.size};
    if (change.kind == DmaChange::Kind::map) {
      change.result = dma_map(change.mapping);
      continue;
    }
    change.result = dma_unmap(range);
    if (change.result && dirt) change.result = (*dirt)(DirtyReport::everything(range));
  }
}

}  // namespace handover::vfio
