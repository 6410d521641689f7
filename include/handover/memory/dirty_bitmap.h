#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "handover/base/result.h"
#include "handover/base/units.h"

namespace handover {

/// A run of pages.
struct PageRun {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  bool operator==(const PageRun&) const = default;
};

/// Bits of guest memory that must be sent again, one per page of kPageSize.
///
/// Any thread may mark; one thread (the migration thread) takes.  Marking is an atomic OR, never skipped
/// where the bit seems set already, so a page written while it is being sent is sent again: take() clears
/// before the page is read, never after, and writers mark after they have written. Memory: one bit per page,
/// 32 KiB per GiB at 4 KiB pages.
class DirtyBitmap {
 public:
  explicit DirtyBitmap(std::uint64_t pages);

  std::uint64_t pages() const { return pages_; }
  void mark(std::uint64_t page) { mark_range(page, 1); }
  /// The range is clipped to the bitmap.  Returns how many pages were new.
  std::uint64_t mark_range(std::uint64_t first, std::uint64_t count);
  void mark_all() { mark_range(0, pages_); }
  bool test(std::uint64_t page) const;
  /// Number of set bits.
  std::uint64_t count() const;

  /// The next run of set bits at or after `from`, of at most `most` pages, cleared as it is taken.
  std::optional<PageRun> take_run(std::uint64_t from, std::uint64_t most);
  /// Clears everything; returns how many bits were set.
  std::uint64_t clear();

  /// Takes every bit of `other` (same size) and sets it here; returns how many were new here.
  /// Costs in proportion to the words of `other`.
  std::uint64_t absorb(DirtyBitmap& other);
  /// ORs in a foreign bitmap: bit i (least significant first in little-endian bytes) stands for the foreign
  /// page at byte offset `offset + i * page_size` of this block; `bits` of them.  The page size is a power of
  /// two, finer or coarser than ours: a finer page dirties ours whole, a coarser one dirties all of ours in
  /// it. Fails if `bytes` is shorter than `bits` says, or the page size is no power of two; bits that fall
  /// beyond the block are ignored.  Returns how many bits were new here.
  Result<std::uint64_t> import_le(std::span<const std::byte> bytes, std::uint64_t bits, std::uint64_t offset,
                                  std::uint64_t page_size);

 private:
  std::uint64_t set_bits(std::uint64_t word, std::uint64_t mask);
  std::uint64_t import_aligned(std::span<const std::byte> bytes, std::uint64_t bits, std::uint64_t first);

  std::uint64_t pages_;
  std::uint64_t words_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> bits_;
};

}  // namespace handover
