#include "stream/inspect/ram_walker.h"

#include <algorithm>

#include "handover/base/units.h"
#include "handover/stream/format.h"
#include "stream/inspect/xbzrle.h"

namespace handover::stream {

RamWalker::RamWalker(StreamReader& in, const InspectOptions& options, StreamFacts& facts, std::uint64_t base)
    : in_(in),
      options_(options),
      facts_(facts),
      base_(base),
      shared_ignored_(facts.configuration.has_capability("x-ignore-shared")),
      mapped_(facts.configuration.has_capability("mapped-ram")) {
}

Status RamWalker::walk(Record kind) {
  if (kind == Record::section_start) {
    if (listed_) return fail(Errc::protocol, "a second list of RAM blocks at offset {}", in_.offset());
    HANDOVER_TRY(block_list());
    listed_ = true;
  }
  for (;;) {
    const std::uint64_t at = in_.offset();
    HANDOVER_ASSIGN(auto word, in_.be64());
    if (word == ram::kEos) return {};
    if (word == ram::kMultifdFlush && !mapped_) {
      ++facts_.multifd_flushes;
      continue;
    }
    HANDOVER_TRY_CONTEXT(page_record(word), "RAM word {:#x} at offset {}", word, at);
  }
}

Status RamWalker::page_record(std::uint64_t word) {
  const std::uint64_t offset = word & ~(facts_.page_size - 1);
  const std::uint64_t flags = word & (facts_.page_size - 1);
  const std::uint64_t kind = flags & ~ram::kContinue;
  if (kind != ram::kZero && kind != ram::kPage && kind != ram::kXbzrle)
    return fail(Errc::protocol, "flags {:#x} are no page record", flags);
  if (mapped_) return fail(Errc::protocol, "a page record in a mapped-ram stream");
  HANDOVER_ASSIGN(auto index, find_block((flags & ram::kContinue) != 0));
  const InspectedRamBlock& known = facts_.ram_blocks[index];
  if (!range_fits(offset, facts_.page_size, known.length))
    return fail(Errc::protocol, "offset {:#x} is outside block '{}' of {} bytes", offset, known.name,
                known.length);
  Block& block = blocks_[index];
  block.pages.add(offset / facts_.page_size);
  if (kind == ram::kZero) return zero_page(block, offset);
  return kind == ram::kPage ? full_page(block, offset) : delta_page(block, offset);
}

Result<std::size_t> RamWalker::find_block(bool same_as_before) {
  if (same_as_before) {
    if (!last_block_) return fail(Errc::protocol, "it continues a block, but none was named before");
    return *last_block_;
  }
  HANDOVER_ASSIGN(auto name, in_.str8());
  auto found = by_name_.find(name);
  if (found == by_name_.end()) return fail(Errc::protocol, "block '{}' is not in the list of blocks", name);
  last_block_ = found->second;
  return found->second;
}

Status RamWalker::zero_page(Block& block, std::uint64_t offset) {
  ++facts_.zero_pages;
  HANDOVER_ASSIGN(auto fill, in_.u8());
  if (fill != 0) return fail(Errc::protocol, "a page filled with {:#04x} instead of zeros", fill);
  if (block.content) block.content->clear(offset, facts_.page_size);
  return {};
}

Status RamWalker::full_page(Block& block, std::uint64_t offset) {
  ++facts_.normal_pages;
  if (block.content) return in_.bytes(block.content->page(offset, facts_.page_size));
  return in_.skip(facts_.page_size);
}

Status RamWalker::delta_page(Block& block, std::uint64_t offset) {
  ++facts_.xbzrle_pages;
  HANDOVER_ASSIGN(auto encoding, in_.u8());
  if (encoding != 1) return fail(Errc::protocol, "unknown delta encoding {}", encoding);
  HANDOVER_ASSIGN(auto size, in_.be16());
  if (size > facts_.page_size) return fail(Errc::protocol, "a delta of {} bytes is larger than a page", size);
  std::vector<std::byte> delta(size);
  HANDOVER_TRY(in_.bytes(delta));
  if (block.content) return apply_xbzrle(delta, block.content->page(offset, facts_.page_size));
  std::vector<std::byte> scratch(facts_.page_size);
  return apply_xbzrle(delta, scratch);
}

void RamWalker::finish() {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    facts_.ram_blocks[i].distinct_pages = blocks_[i].pages.count();
    if (blocks_[i].content) facts_.ram_blocks[i].sha256 = blocks_[i].content->sha256();
  }
}

}  // namespace handover::stream
