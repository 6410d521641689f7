#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "handover/stream/inspector.h"
#include "handover/stream/stream_reader.h"
#include "stream/inspect/page_set.h"
#include "stream/inspect/ram_content.h"

namespace handover::stream {

/// Follows the bodies of section `ram` (qemu-stream 4).
class RamWalker {
 public:
  RamWalker(StreamReader& in, const InspectOptions& options, StreamFacts& facts, std::uint64_t base);

  /// Host page sizes of the source, from POSTCOPY_ADVISE: blocks may then carry theirs.
  void set_host_page_sizes(std::uint64_t all) { host_page_sizes_ = all; }
  /// One body, up to and with its EOS word.
  Status walk(Record kind);
  /// Fills in what is known only at the end: distinct pages and hashes.
  void finish();

 private:
  struct Block {
    PageSet pages;
    std::optional<RamContent> content;
  };

  Status block_list();
  Status block_entry(std::uint64_t left);
  Status mapped_block(InspectedRamBlock& block, std::optional<RamContent>& content);
  Status mapped_bitmap(InspectedRamBlock& block, std::vector<std::uint64_t>* all);
  Status page_record(std::uint64_t word);
  Result<std::size_t> find_block(bool same_as_before);
  Status zero_page(Block& block, std::uint64_t offset);
  Status full_page(Block& block, std::uint64_t offset);
  Status delta_page(Block& block, std::uint64_t offset);

  StreamReader& in_;
  const InspectOptions& options_;
  StreamFacts& facts_;
  std::uint64_t base_;
  std::uint64_t host_page_sizes_ = 0;
  bool listed_ = false;
  bool shared_ignored_ = false;
  bool mapped_ = false;
  std::vector<Block> blocks_;  // in the order of facts_.ram_blocks
  std::unordered_map<std::string, std::size_t> by_name_;
  std::optional<std::size_t> last_block_;
};

}  // namespace handover::stream
