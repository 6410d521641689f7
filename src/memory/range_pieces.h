#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "handover/memory/guest_memory.h"

namespace handover {

/// Calls visit(block, first page, pages) for every part of a guest-physical range that is RAM; pages that the
/// range touches in part count whole.
template <class Visit>
void for_each_ram_piece(const std::vector<MemoryRange>& ranges, Gpa start, std::uint64_t length,
                        const Visit& visit) {
  if (length == 0) return;
  // Inclusive, so that a range up to the very last address does not wrap.
  const std::uint64_t room = std::numeric_limits<std::uint64_t>::max() - start.value;
  const std::uint64_t last = start.value + std::min(length - 1, room);
  for (const auto& range : ranges) {
    const std::uint64_t range_last = range.start.value + (range.size - 1);
    if (last < range.start.value || start.value > range_last) continue;
    const std::uint64_t from = std::max(start.value, range.start.value) - range.start.value + range.offset;
    const std::uint64_t to = std::min(last, range_last) - range.start.value + range.offset;
    const std::uint64_t first_page = from / kPageSize;
    visit(*range.block, first_page, to / kPageSize - first_page + 1);
  }
}

}  // namespace handover
