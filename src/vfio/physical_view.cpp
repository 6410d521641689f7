#include <algorithm>

#include "handover/vfio/dma_view.h"

namespace handover::vfio {

std::vector<IovaRange> PhysicalView::mapped() const {
  std::vector<IovaRange> ranges;
  for (const auto& range : memory_.ranges())
    ranges.push_back({Iova{range.start.value}, range.size});
  return ranges;
}

Result<std::uint64_t> PhysicalView::mark(const DirtyReport& report, DirtyMemory& to) const {
  const auto [start, size] = report.range;
  if (report.page_size == 0) return to.mark(Gpa{start.value}, size);
  std::uint64_t fresh = 0;
  // A report lies in one range of RAM: that is how they are asked for.
  for (const auto& range : memory_.ranges()) {
    if (start.value < range.start.value || !range_fits(start.value - range.start.value, size, range.size))
      continue;
    HANDOVER_ASSIGN(fresh,
                    to.of(*range.block)
                        .import_le(report.bits, (size - 1) / report.page_size + 1,
                                   range.offset + (start.value - range.start.value), report.page_size));
    return fresh;
  }
  return fail(Errc::protocol, "a dirty report of [{:#x}, +{:#x}), which is no RAM", start.value, size);
}

}  // namespace handover::vfio
