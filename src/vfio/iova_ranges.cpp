#include "handover/vfio/iova_ranges.h"

#include <algorithm>

namespace handover::vfio {
namespace {

std::uint64_t last_of(const IovaRange& range) {
  return range.start.value + (range.size - 1);
}

}  // namespace

bool covered(std::span<const IovaRange> sorted, const IovaRange& range) {
  if (range.size == 0) return true;
  auto next = range.start.value;
  for (const auto& each : sorted) {
    if (last_of(each) < next) continue;
    if (each.start.value > next) return false;
    if (last_of(each) >= last_of(range)) return true;
    next = last_of(each) + 1;
  }
  return false;
}

std::vector<IovaRange> common_parts(std::span<const IovaRange> sorted, const IovaRange& range) {
  std::vector<IovaRange> parts;
  if (range.size == 0) return parts;
  for (const auto& each : sorted) {
    const auto first = std::max(each.start, range.start);
    const auto last = std::min(last_of(each), last_of(range));
    if (first.value <= last) parts.push_back({first, last - first.value + 1});
  }
  return parts;
}

std::vector<IovaRange> merge_ranges(std::vector<IovaRange> ranges, std::size_t most) {
  std::ranges::sort(ranges, {}, &IovaRange::start);
  std::vector<IovaRange> merged;
  for (const auto& range : ranges) {
    if (range.size == 0) continue;
    if (!merged.empty() &&
        (range.start.value <= last_of(merged.back()) || range.start.value - last_of(merged.back()) == 1)) {
      const auto last = std::max(last_of(merged.back()), last_of(range));
      merged.back().size = last - merged.back().start.value + 1;
    } else {
      merged.push_back(range);
    }
  }
  if (merged.size() <= most) return merged;

  // The widest gaps stay open: one less than there may be ranges.
  std::vector<std::size_t> gaps(merged.size() - 1);  // gap i lies before range i + 1
  for (std::size_t i = 0; i < gaps.size(); ++i)
    gaps[i] = i;
  const auto width = [&](std::size_t gap) { return merged[gap + 1].start.value - last_of(merged[gap]); };
  const auto open = std::max<std::size_t>(most, 1) - 1;
  std::ranges::nth_element(gaps, gaps.begin() + static_cast<std::ptrdiff_t>(open), std::greater{}, width);
  gaps.resize(open);
  std::ranges::sort(gaps);
  std::vector<IovaRange> coarse;
  std::size_t first = 0;
  gaps.push_back(merged.size() - 1);
  for (const auto gap : gaps) {
    coarse.push_back({merged[first].start, last_of(merged[gap]) - merged[first].start.value + 1});
    first = gap + 1;
  }
  return coarse;
}

}  // namespace handover::vfio
