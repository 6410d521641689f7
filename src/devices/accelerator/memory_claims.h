#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "handover/memory/dirty_bitmap.h"

namespace handover::accelerator {

/// Keeps the engine's writes to device memory and the session's copies of it apart.
///
/// One writer (the engine, a piece of a job at a time) and one reader (the loop, one copy at a time) say what
/// they are at.  The reader never waits: it takes the pages that the writer is not at and comes back for the
/// rest.  The writer waits only for a copy that overlaps its piece, at most 1 MiB of memcpy.  Nothing is held
/// while either works, so DMA that takes long holds up nobody.
class MemoryClaims {
 public:
  void begin_write(PageRun pages);
  void end_write();

  /// The first part of `wanted` that the writer is not at; claimed for reading if it is not empty, and then
  /// end_read() must follow.
  PageRun begin_read(PageRun wanted);
  void end_read();

 private:
  std::mutex mutex_;
  std::condition_variable read_ended_;
  PageRun writing_;
  PageRun reading_;
};

}  // namespace handover::accelerator
