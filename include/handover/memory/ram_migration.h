#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "handover/memory/dirty_source.h"
#include "handover/memory/page_sink.h"
#include "handover/stream/migratable.h"
#include "handover/stream/multifd.h"

namespace handover {

class RamLoader;
class RamProgress;
class RamSaver;

/// Figures of one pass over memory, from one dirty sync to the next.
struct RamRound {
  std::uint64_t number = 0;       ///< 1 is the bulk round
  std::uint64_t dirty_pages = 0;  ///< found by the sync that began it
  std::uint64_t normal_pages = 0;
  std::uint64_t zero_pages = 0;
  std::uint64_t bytes = 0;
  double seconds = 0;
};

/// Guest RAM as a Migratable: section `ram`, version 4, in QEMU's layout.
///
/// The same object serves a source or a destination.  Dirty sources are added before the migration starts
/// and outlive it.  counters(), rounds(), sync_count() and dirty_pages_rate() may be called by any thread at
/// any time, also after cleanup(); they describe the last migration.  Everything else belongs to the
/// migration or load thread.
///
/// Pages are handed to the writer by reference: whoever ends the migration flushes the writer, or drops it,
/// before the memory goes away.
class RamMigration final : public Migratable {
 public:
  explicit RamMigration(GuestMemory& memory);
  ~RamMigration() override;

  void add_dirty_source(DirtySource& source);
  void remove_dirty_source(DirtySource& source);
  /// Where the next migration's pages go instead of into the stream; null: into the stream.  Set before
  /// save_setup(); outlives cleanup(), which counts what it sent to the end and forgets it.
  void set_page_sink(PageSink* sink) { sink_ = sink; }
  /// What waits, on the destination, until all multifd channels have come to the next synchronisation point.
  /// Set before load_setup(); forgotten by cleanup().
  void set_page_barrier(std::function<Status()> barrier) { barrier_ = std::move(barrier); }
  /// Destination, any thread: the pages of a packet, whose content follows in `in`; after the section's
  /// START.  Threads that load at the same time have different pages.
  Status load_pages(const stream::multifd::RamPacket& packet, StreamReader& in);

  std::string section_name() const override { return "ram"; }
  std::uint32_t version_id() const override { return 4; }
  bool is_live() const override { return true; }

  Status save_setup(StreamWriter& out, const SaveOptions& options = {}) override;
  Result<Pending> pending(bool exact) override;
  Result<Iterated> save_iterate(StreamWriter& out, const IterateBudget& budget) override;
  /// Starts with the final sync: every device must have stopped writing.
  Status save_complete(StreamWriter& out) override;
  ItemCounters counters() const override;

  Status load_setup(const LoadOptions& options = {}) override;
  Status load_live(StreamReader& in, std::uint32_t version) override;
  void cleanup() override;

  /// Dirty syncs made so far (`dirty-sync-count`); marking everything at the start counts as the first, as it
  /// does in QEMU.
  std::uint64_t sync_count() const;
  /// Pages a second found dirty between the last two syncs (`dirty-pages-rate`).
  std::uint64_t dirty_pages_rate() const;
  std::vector<RamRound> rounds() const;
  /// Of the sources that are devices'.  Migration thread.
  std::vector<DirtyTracking> dirty_tracking() const;

 private:
  Result<RamSaver*> saver();

  GuestMemory& memory_;
  std::vector<DirtySource*> sources_;
  PageSink* sink_ = nullptr;
  std::function<Status()> barrier_;
  std::unique_ptr<RamProgress> progress_;
  std::unique_ptr<RamSaver> saver_;
  std::unique_ptr<RamLoader> loader_;
};

}  // namespace handover
