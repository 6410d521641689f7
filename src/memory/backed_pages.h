#pragma once

#include "handover/memory/guest_memory.h"

namespace handover {

/// Finds the pages of a block that the host has memory for.  The others are zero, and to read them through
/// the mapping would make the host allocate them.
///
/// A page may get memory at any time but never loses it, so what was found to be backed is remembered, and
/// what was not is asked for again: a page that next() leaves out was zero when it was called.  For passes in
/// ascending order, where the answers cost two system calls an extent.
class BackedPages {
 public:
  explicit BackedPages(const RamBlock& block) : block_(block) {}

  const RamBlock& block() const { return block_; }
  /// The first run of backed pages in `within`; count 0, at its end, if there is none.
  PageRun next(PageRun within);

 private:
  /// The first extent at or after page `from`, if it begins before page `before`.
  void find_extent(std::uint64_t from, std::uint64_t before);

  const RamBlock& block_;
  std::uint64_t first_ = 0;  // the last extent found, up to end_
  std::uint64_t end_ = 0;
};

}  // namespace handover
