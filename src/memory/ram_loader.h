#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "handover/memory/guest_memory.h"
#include "handover/stream/multifd.h"
#include "handover/stream/stream_reader.h"
#include "memory/mapped_ram_reader.h"
#include "memory/ram_progress.h"

namespace handover {

/// The destination's half of RamMigration, for one migration.  All calls come from the load thread, but for
/// load_pages().
class RamLoader {
 public:
  /// `barrier` waits until all channels have reached the synchronisation point that a FLUSH word stands for;
  /// empty: there are no channels.
  RamLoader(GuestMemory& memory, RamProgress& progress, std::function<Status()> barrier);

  /// The pages are not in the stream but in its file (capability mapped-ram).  Before the first load().
  void expect_mapped_ram(MappedRamReader::Options options) { mapped_ram_ = std::move(options); }
  /// The body of one section, up to its EOS word.
  Status load(StreamReader& in);
  /// The pages of a packet; their content follows in `in`.  Any thread, with pages that no other thread has
  /// at that time.
  Status load_pages(const stream::multifd::RamPacket& packet, StreamReader& in);

 private:
  struct Block {
    RamBlock* ram = nullptr;
    bool listed = false;
    bool takes_writes = true;  ///< through the descriptor
    /// Pages that may hold something else than zeros; a zero page for any other needs no write, so that
    /// memory which is zero everywhere costs the host nothing.
    std::unique_ptr<DirtyBitmap> touched;
  };
  struct Word {
    std::uint64_t at = 0;  ///< offset in the stream
    std::uint64_t value = 0;
    std::uint64_t flags() const { return value % kPageSize; }
    std::uint64_t address() const { return value - flags(); }
  };

  Status load_block_list(StreamReader& in, const Word& word);
  Status load_block_entry(StreamReader& in, std::uint64_t total, std::uint64_t& sum);
  Status load_mapped_block(StreamReader& in, RamBlock& ram);
  Status load_page_record(StreamReader& in, const Word& word);
  Status choose_block(StreamReader& in, const Word& word);
  Status load_zero(StreamReader& in, std::uint64_t page);
  Status load_normal(StreamReader& in, std::uint64_t page);
  /// Takes the page `first`, and those that follow it in the reader's buffer, if nothing was in them before.
  /// False: nothing was taken.
  Result<bool> write_fresh_run(StreamReader& in, std::uint64_t first);
  Result<Block*> listed_block(const std::string& name, std::uint64_t at);
  std::string known_names() const;

  RamProgress& progress_;
  const std::function<Status()> barrier_;
  std::vector<Block> blocks_;
  std::atomic<bool> have_list_{false};  // what it stands for is fixed then
  Block* current_ = nullptr;            // of the last page record; outlives the section
  ItemCounters loaded_;                 // of the present section
  std::optional<MappedRamReader::Options> mapped_ram_;
  std::unique_ptr<MappedRamReader> mapped_reader_;
  std::uint64_t passed_over_ = 0;  // bytes of the present section that are no stream
};

}  // namespace handover
