#include "handover/memory/dirty_source.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "memory/range_pieces.h"

namespace handover {
namespace {

int membarrier(int command) {
  return static_cast<int>(::syscall(SYS_membarrier, command, 0, 0));
}

/// A memory barrier on every running thread of this process.
Status barrier_everywhere() {
  if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0) return {};
  if (errno == EPERM && membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
      membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0)
    return {};
  // The slow form; known to every kernel since 4.3.
  if (membarrier(MEMBARRIER_CMD_SHARED) == 0) return {};
  return fail_errno(errno, "cannot order the guest's writes before the dirty log (membarrier)");
}

}  // namespace

DirtyMemory::DirtyMemory(GuestMemory& memory) : memory_(memory) {
  for (const auto& block : memory.blocks())
    bitmaps_.emplace_back(block.get(), std::make_unique<DirtyBitmap>(block->pages()));
}

DirtyBitmap& DirtyMemory::of(const RamBlock& block) {
  for (auto& [owner, bitmap] : bitmaps_)
    if (owner == &block) return *bitmap;
  std::abort();  // a block of another GuestMemory: a bug of ours
}

std::uint64_t DirtyMemory::mark(Gpa start, std::uint64_t length) {
  std::uint64_t fresh = 0;
  for_each_ram_piece(memory_.ranges(), start, length,
                     [&](const RamBlock& block, std::uint64_t first, std::uint64_t pages) {
                       fresh += of(block).mark_range(first, pages);
                     });
  return fresh;
}

std::uint64_t DirtyMemory::count() const {
  std::uint64_t total = 0;
  for (const auto& [block, bitmap] : bitmaps_)
    total += bitmap->count();
  return total;
}

Status ProcessWrites::start() {
  if (started_) return {};
  // Bits from a time before this one would only send pages for nothing.
  if (!memory_.logging())
    for (const auto& block : memory_.blocks())
      block->written().clear();
  memory_.start_logging();
  started_ = true;
  // A thread that has written and then found logging off must have its write in memory before the first page
  // is read; the barrier is paid here once and not by every write.
  return barrier_everywhere();
}

Status ProcessWrites::sync(DirtyMemory& to, DirtySync) {
  for (const auto& block : memory_.blocks())
    to.of(*block).absorb(block->written());
  return {};
}

void ProcessWrites::stop() {
  if (!started_) return;
  memory_.stop_logging();
  started_ = false;
}

}  // namespace handover
