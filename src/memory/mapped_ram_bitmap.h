#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/memory/dirty_bitmap.h"

namespace handover {

/// Which pages of a block stand in a mapped-ram file; the others are zero.  In the file: page i is bit i mod
/// 8 of byte i / 8.
class MappedRamBitmap {
 public:
  explicit MappedRamBitmap(std::uint64_t pages);
  /// Fails if `bytes` has not the size for `pages`, or marks one that the block does not have.
  static Result<MappedRamBitmap> decode(std::span<const std::byte> bytes, std::uint64_t pages);

  /// Any thread.
  void mark(PageRun run);
  /// Any thread.  True if the page was marked.
  bool clear(std::uint64_t page);

  // While nobody marks.
  std::vector<std::byte> encode() const;
  /// The first run of marked pages at or after `from`; count 0, at the end, if there is none.
  PageRun next_run(std::uint64_t from) const;

 private:
  std::uint64_t find(std::uint64_t from, bool marked) const;

  std::uint64_t pages_;
  std::vector<std::uint64_t> words_;
};

}  // namespace handover
