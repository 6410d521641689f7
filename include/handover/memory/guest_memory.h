#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "handover/base/mapping.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/base/units.h"
#include "handover/memory/dirty_bitmap.h"

namespace handover {

/// One block of guest RAM, backed by a memfd that devices in other processes can map.
class RamBlock {
 public:
  /// `huge_pages` asks for 2 MiB pages (MFD_HUGETLB) and fails if the host has none free.
  static Result<std::unique_ptr<RamBlock>> create(std::string name, std::uint64_t size,
                                                  bool huge_pages = false);

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return mapping_.size(); }
  std::uint64_t pages() const { return size() / kPageSize; }
  std::byte* data() const { return mapping_.data(); }
  int fd() const { return fd_.get(); }
  std::span<std::byte> page(std::uint64_t index) const { return {data() + index * kPageSize, kPageSize}; }

  /// Pages that this process wrote (vCPUs without a hardware log, DMA by message) since the last take.
  /// Marked only while GuestMemory::logging() is on.
  DirtyBitmap& written() { return written_; }

 private:
  RamBlock(std::string name, UniqueFd fd, Mapping mapping);
  std::string name_;
  UniqueFd fd_;
  Mapping mapping_;
  DirtyBitmap written_;
};

/// A piece of guest-physical address space that a part of a block fills.
struct MemoryRange {
  Gpa start;
  std::uint64_t size = 0;
  RamBlock* block = nullptr;
  std::uint64_t offset = 0;  ///< in the block
};

/// Guest RAM and where the guest sees it.
///
/// The layout is fixed before the machine starts.  read(), write() and at() may be called by any thread
/// that runs guest work; they do not lock.
class GuestMemory {
 public:
  /// RAM from 0 up to kHoleStart, the rest from 4 GiB up; between the two are device windows.
  static constexpr std::uint64_t kHoleStart = 3 * GiB;
  static constexpr std::uint64_t kHoleEnd = 4 * GiB;

  /// One block of `size` bytes (a multiple of kPageSize, not 0), laid out around the hole.  Both sides of a
  /// migration must call it the same.
  static Result<std::unique_ptr<GuestMemory>> create(std::uint64_t size, bool huge_pages = false,
                                                     std::string block_name = "ram0");

  const std::vector<std::unique_ptr<RamBlock>>& blocks() const { return blocks_; }
  /// In ascending order of address.
  const std::vector<MemoryRange>& ranges() const { return ranges_; }
  RamBlock* find_block(std::string_view name) const;
  /// Takes all of it from the host now instead of at the first touch (QEMU's `prealloc`).  Costs about a
  /// microsecond a page once; a destination then loads several times as fast.  Fails if the host has too
  /// little.
  Status allocate();
  std::uint64_t size() const;

  /// Copies out of or into guest memory.  False if any byte of the range is no RAM; nothing is copied then.
  bool read(Gpa at, std::span<std::byte> to) const;
  bool write(Gpa at, std::span<const std::byte> from);
  /// A direct view; empty unless the whole range is RAM and contiguous.  Whoever writes through it must
  /// call mark_written() afterwards.
  std::span<std::byte> at(Gpa start, std::uint64_t length) const;
  /// Logs a write that was just made (after it, so that a page being sent is sent again).
  void mark_written(Gpa start, std::uint64_t length);

  /// Turns logging of this process's writes on or off.  Nested: on until every start has had its stop.
  void start_logging() { logging_.fetch_add(1); }
  void stop_logging() { logging_.fetch_sub(1); }
  bool logging() const { return logging_.load(std::memory_order_relaxed) > 0; }

 private:
  std::vector<std::unique_ptr<RamBlock>> blocks_;
  std::vector<MemoryRange> ranges_;
  std::atomic<int> logging_{0};
};

}  // namespace handover
