#pragma once

#include <span>
#include <vector>

#include "handover/vfio/device.h"

namespace handover::vfio {

// No range here wraps, and all of them together leave out at least one of the 2^64 addresses.

/// True if the ranges, none of them empty, have the whole of `range` between them.
/// `sorted` ascend and do not overlap; adjacent ones count as one.
bool covered(std::span<const IovaRange> sorted, const IovaRange& range);

/// The common part of a range with each of `sorted`.
std::vector<IovaRange> common_parts(std::span<const IovaRange> sorted, const IovaRange& range);

/// The same addresses and as few others as possible in at most `most` ranges (at least 1): sorted, adjacent
/// and overlapping ones joined, and then the smallest gaps closed.
std::vector<IovaRange> merge_ranges(std::vector<IovaRange> ranges, std::size_t most);

}  // namespace handover::vfio
