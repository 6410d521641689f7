#pragma once

#include <optional>
#include <span>
#include <vector>

#include "handover/memory/dirty_source.h"
#include "handover/memory/page_sink.h"
#include "handover/stream/migratable.h"
#include "memory/backed_pages.h"
#include "memory/ram_progress.h"

namespace handover {

/// The source's half of RamMigration, for one migration.  All calls come from the migration thread.
class RamSaver {
 public:
  /// `sink`, if any, takes the pages; else they go into the stream.
  RamSaver(GuestMemory& memory, std::span<DirtySource* const> sources, RamProgress& progress, PageSink* sink);
  /// Stops the dirty sources.
  ~RamSaver();
  RamSaver(const RamSaver&) = delete;
  RamSaver& operator=(const RamSaver&) = delete;

  Status setup(StreamWriter& out);
  Result<Pending> pending(bool exact);
  Result<Iterated> iterate(StreamWriter& out, const IterateBudget& budget);
  Status complete(StreamWriter& out);

 private:
  Status sync(DirtySync which);
  /// Sends dirty pages until none is left or `bytes` have been written.
  Status send(StreamWriter& out, std::uint64_t bytes, const CancelToken& cancel);
  Status end_body(StreamWriter& out);
  Status hand_over(const RamBlock& block, PageRun run, const CancelToken& cancel);
  void count_sunk();
  ItemCounters send_run(StreamWriter& out, const RamBlock& block, PageRun run);
  void send_zero(StreamWriter& out, const RamBlock& block, std::uint64_t page);
  void send_normal(StreamWriter& out, const RamBlock& block, std::uint64_t page);
  std::uint64_t word(const RamBlock& block, std::uint64_t page, std::uint64_t kind) const;
  void named(StreamWriter& out, const RamBlock& block);

  GuestMemory& memory_;
  std::vector<DirtySource*> sources_;
  RamProgress& progress_;
  PageSink* sink_;
  ItemCounters sunk_;  // what of the sink's counters has been counted
  DirtyMemory dirty_;
  std::uint64_t left_ = 0;  // dirty pages not sent yet
  // Where the pass is.
  std::size_t block_index_ = 0;
  std::uint64_t next_page_ = 0;
  bool first_pass_ = true;
  std::optional<BackedPages> backed_;
  const RamBlock* last_block_ = nullptr;  // of the last page record, for CONTINUE
};

}  // namespace handover
