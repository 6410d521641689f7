#include "handover/vfio/iommu_endpoint.h"

#include "handover/base/log.h"

namespace handover::vfio {

using Kind = IommuChange::Kind;

DmaChange IommuEndpoint::for_device(const IommuChange& change) const {
  const auto& mapping = change.mapping;
  DmaChange out;
  out.kind = change.kind == Kind::map ? DmaChange::Kind::map : DmaChange::Kind::unmap;
  out.mapping.iova = mapping.iova;
  out.mapping.size = mapping.size;
  out.mapping.flags = mapping.flags;
  for (const auto& range : memory_.ranges()) {
    if (mapping.target < range.start ||
        !range_fits(mapping.target.value - range.start.value, mapping.size, range.size))
      continue;
    out.mapping.fd = range.block->fd();
    out.mapping.offset = range.offset + (mapping.target.value - range.start.value);
    out.mapping.host = range.block->data() + out.mapping.offset;
  }
  return out;
}

void IommuEndpoint::change(std::span<IommuChange> changes) {
  std::vector<DmaChange> device_changes;
  device_changes.reserve(changes.size());
  for (const auto& change : changes) {
    if (change.kind == Kind::map)
      map_.add(change.mapping);  // the IOMMU has seen to it that nothing overlaps
    else
      map_.going(change.mapping);
    device_changes.push_back(for_device(change));
  }

  // One IOVA may be given to several pages in turn: a report that may be of either marks both.
  dirt_.change(device_, device_changes, [&](const DirtyReport& report) -> Status {
    for (const auto& change : changes)
      if (change.kind == Kind::unmap && (change.mapping.flags & kDmaWrite))
        for_each_written(change.mapping, report,
                         [&](Gpa at, std::uint64_t size) { memory_.mark_written(at, size); });
    return {};
  });

  for (std::size_t i = 0; i < changes.size(); ++i) {
    auto& change = changes[i];
    change.result = std::move(device_changes[i].result);
    if (change.kind == Kind::unmap) {
      // Of one that could not be taken away the device may still write; it counts for ever.
      if (change.result)
        map_.gone(change.mapping);
      else if (!device_.lost())
        log::warn("device `{}` keeps [{:#x}, +{:#x}): {}", device_.id(), change.mapping.iova.value,
                  change.mapping.size, change.result.error().to_string());
    } else if (!change.result) {
      map_.going(change.mapping);
      map_.gone(change.mapping);
    }
  }
}

}  // namespace handover::vfio
