#pragma once

#include <cstddef>
#include <memory>

#include "handover/base/cancel.h"
#include "handover/channel/channel.h"
#include "handover/memory/page_sink.h"

namespace handover {

/// Writes RAM into a file, every page at a place of its own (capability `mapped-ram`, qemu-stream 4.7): the
/// file does not grow with the number of passes, and several threads write it.
///
/// Pages that are zero are holes.  A page is read when it is written, by whichever thread writes it, so it
/// may be newer than when it was handed over; what changes after that is dirty and comes again.  At the end
/// the bitmaps are written, which say what is there; without them the pages mean nothing.
///
/// Errors of the file (a full disk) name it, and come out of the next call; so does a cancel.  The destructor
/// drops what waits and joins the threads.  Queued are at most 4 MiB a thread.
class MappedRamFile final : public PageSink {
 public:
  struct Options {
    /// That write pages; 0: whoever hands them over.
    std::size_t threads = 0;
    /// Past the page cache, where the file system can.
    bool direct_io = false;
    CancelToken cancel{};
  };

  /// Fails if the channel is no regular file.  The channel carries the stream, and outlives this object.
  static Result<std::unique_ptr<MappedRamFile>> create(Channel& channel, const Options& options);
  ~MappedRamFile() override;

  Status describe_block(StreamWriter& out, const RamBlock& block) override;
  Status begin(StreamWriter& out) override;
  Status send(const RamBlock& block, PageRun pages, Content content, const CancelToken& cancel) override;
  Status barrier(StreamWriter& out) override;
  Status finish(StreamWriter& out) override;
  ItemCounters counters() const override;

 private:
  struct Impl;
  explicit MappedRamFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover
