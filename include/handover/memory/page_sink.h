#pragma once

#include "handover/base/cancel.h"
#include "handover/memory/guest_memory.h"
#include "handover/stream/migratable.h"
#include "handover/stream/stream_writer.h"

namespace handover {

/// Takes the guest pages that do not travel in the main stream: the channels of multifd, a mapped-ram file.
///
/// RamSaver makes the calls, on the migration thread, but for counters().
class PageSink {
 public:
  /// What is known of pages that are handed over.
  enum class Content {
    unknown,
    zero,  ///< the host has no memory behind them: they read as zeros, and reading them would only cost
  };

  virtual ~PageSink() = default;
  /// START, after the block's name and length: what the layout has there.
  virtual Status describe_block(StreamWriter& out, const RamBlock& block) {
    (void)block;
    return out.status();
  }
  /// START, after the last block.
  virtual Status begin(StreamWriter& out) = 0;
  /// Pages whose dirty bits are clear.  They may be read later, by other threads; a page comes at most once
  /// between two barriers.  May wait for room.
  virtual Status send(const RamBlock& block, PageRun pages, Content content, const CancelToken& cancel) = 0;
  /// A pass over all memory is complete: what was handed over before takes effect before what follows.
  virtual Status barrier(StreamWriter& out) = 0;
  /// END, after the last page, the machine stopped.
  virtual Status finish(StreamWriter& out) = 0;
  /// What has been sent so far.  Any thread.
  virtual ItemCounters counters() const = 0;
};

}  // namespace handover
