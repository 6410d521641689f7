#include "handover/vfio/device.h"

namespace handover::vfio {

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
