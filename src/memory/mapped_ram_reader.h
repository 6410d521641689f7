#pragma once

#include <cstddef>

#include "handover/base/cancel.h"
#include "handover/channel/positioned_file.h"
#include "handover/memory/guest_memory.h"
#include "handover/stream/stream_reader.h"
#include "memory/mapped_ram_bitmap.h"
#include "memory/mapped_ram_workers.h"

namespace handover {

/// Fills RAM from a mapped-ram file: pages by position, on several threads if asked.
///
/// All calls come from the load thread.
class MappedRamReader {
 public:
  struct Options {
    std::size_t threads = 0;  ///< that read pages; 0: the load thread
    bool direct_io = false;
    CancelToken cancel{};
  };
  struct Counts {
    std::uint64_t normal_pages = 0;
    std::uint64_t zero_pages = 0;
    std::uint64_t passed_over = 0;  ///< bytes of the file that the stream left out
  };

  /// The channel that `in` reads must be a regular file and outlive this object.
  static Result<std::unique_ptr<MappedRamReader>> create(StreamReader& in, const Options& options);

  /// What follows the block's length in the list: takes the header, begins to read the pages, and leaves `in`
  /// behind them.
  Result<Counts> load_block(StreamReader& in, RamBlock& block);
  /// Waits until all pages are in memory.
  Status finish() { return workers_.drain(); }

 private:
  MappedRamReader(PositionedFile& file, const Options& options)
      : file_(file), workers_(options.threads, options.cancel) {}
  Result<MappedRamBitmap> read_bitmap(std::uint64_t position, const RamBlock& block);
  Status read_pages(RamBlock& block, std::uint64_t position, PageRun run);

  PositionedFile& file_;
  MappedRamWorkers workers_;
};

}  // namespace handover
