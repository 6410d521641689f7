// The block list in the START body of section `ram`, and the pages of mapped-ram files that stand in it.

#include <algorithm>
#include <bit>

#include "handover/base/units.h"
#include "handover/stream/format.h"
#include "stream/inspect/ram_walker.h"

namespace handover::stream {
namespace {

/// More blocks than any machine has.
constexpr std::size_t kMaxBlocks = 65536;
constexpr std::uint32_t kMappedRamVersion = 1;

}  // namespace

Status RamWalker::block_list() {
  const std::uint64_t at = in_.offset();
  HANDOVER_ASSIGN(auto word, in_.be64());
  if ((word & (facts_.page_size - 1)) != ram::kMemSize)
    return fail(Errc::protocol, "RAM word {:#x} at offset {}, where the size of memory should be", word, at);
  facts_.ram_total = word & ~(facts_.page_size - 1);
  if (options_.hash && facts_.ram_total > options_.max_hashed_ram)
    return fail(Errc::limit,
                "{} bytes of RAM at offset {} are more than the {} that are hashed; raise --hash-limit",
                facts_.ram_total, at, options_.max_hashed_ram);
  std::uint64_t left = facts_.ram_total;
  while (left > 0) {
    const std::uint64_t entry = in_.offset();
    HANDOVER_TRY_CONTEXT(block_entry(left), "RAM block at offset {}", entry);
    left -= facts_.ram_blocks.back().length;
  }
  return {};
}

Status RamWalker::block_entry(std::uint64_t left) {
  if (blocks_.size() >= kMaxBlocks) return fail(Errc::limit, "more than {} RAM blocks", kMaxBlocks);
  InspectedRamBlock block;
  HANDOVER_ASSIGN(block.name, in_.str8());
  HANDOVER_ASSIGN(block.length, in_.be64());
  if (block.length > left)
    return fail(Errc::protocol, "'{}' has {} bytes, but only {} of the total are left", block.name,
                block.length, left);
  if (block.length % facts_.page_size != 0)
    return fail(Errc::protocol, "'{}' has {} bytes, which are not whole pages of {}", block.name,
                block.length, facts_.page_size);
  if (!by_name_.emplace(block.name, blocks_.size()).second)
    return fail(Errc::protocol, "'{}' is listed twice", block.name);
  // Only blocks of huge pages carry their page size, and what else may come here never looks like one.
  HANDOVER_ASSIGN(auto ahead, in_.peek(8));
  if (ahead.size() == 8) {
    const auto value = load_be<std::uint64_t>(ahead.data());
    if (std::has_single_bit(value) && value > facts_.page_size && (host_page_sizes_ & value) != 0) {
      block.host_page_size = value;
      HANDOVER_TRY(in_.skip(8));
    }
  }
  if (shared_ignored_) {
    HANDOVER_ASSIGN(block.guest_address, in_.be64());
  }
  Block& state = blocks_.emplace_back();
  if (options_.hash) {
    HANDOVER_ASSIGN(state.content, RamContent::make(block.length));
  }
  if (mapped_) HANDOVER_TRY_CONTEXT(mapped_block(block, state.content), "'{}'", block.name);
  facts_.ram_blocks.push_back(std::move(block));
  return {};
}

Status RamWalker::mapped_block(InspectedRamBlock& block, std::optional<RamContent>& content) {
  InspectedMappedRam& header = block.mapped.emplace();
  HANDOVER_ASSIGN(header.version, in_.be32());
  if (header.version != kMappedRamVersion)
    return fail(Errc::unsupported, "version {} of the mapped-ram header", header.version);
  HANDOVER_ASSIGN(header.page_size, in_.be64());
  HANDOVER_ASSIGN(header.bitmap_offset, in_.be64());
  HANDOVER_ASSIGN(header.pages_offset, in_.be64());
  if (header.page_size != facts_.page_size)
    return fail(Errc::protocol, "pages of {} bytes in a stream of {}", header.page_size, facts_.page_size);
  // An ignored block of shared memory has neither bitmap nor pages in the file.
  if (shared_ignored_ && header.bitmap_offset == 0 && header.pages_offset == 0) return {};
  const std::uint64_t bitmap_bytes = align_up(block.length / header.page_size, 64) / 8;
  const std::uint64_t here = base_ + in_.offset();
  if (header.bitmap_offset < here || header.pages_offset < header.bitmap_offset ||
      header.pages_offset - header.bitmap_offset < bitmap_bytes ||
      header.pages_offset % header.page_size != 0)
    return fail(Errc::protocol, "bitmap at {} and pages at {} do not fit behind the header, which ends at {}",
                header.bitmap_offset, header.pages_offset, here);
  HANDOVER_TRY(in_.skip(header.bitmap_offset - here));
  std::vector<std::uint64_t> present;
  HANDOVER_TRY_CONTEXT(mapped_bitmap(block, content ? &present : nullptr), "bitmap");
  HANDOVER_TRY(in_.skip(header.pages_offset - (base_ + in_.offset())));
  const std::uint64_t start = in_.offset();
  for (std::uint64_t index : present) {
    HANDOVER_TRY(in_.skip(index * header.page_size - (in_.offset() - start)));
    HANDOVER_TRY(in_.bytes(content->page(index * header.page_size, header.page_size)));
  }
  return in_.skip(block.length - (in_.offset() - start));
}

Status RamWalker::mapped_bitmap(InspectedRamBlock& block, std::vector<std::uint64_t>* all) {
  InspectedMappedRam& header = *block.mapped;
  const std::uint64_t pages = block.length / header.page_size;
  const std::uint64_t words = align_up(pages, 64) / 64;
  for (std::uint64_t word = 0; word < words; ++word) {
    std::byte raw[8];
    HANDOVER_TRY(in_.bytes(raw));
    for (auto bits = load_le<std::uint64_t>(raw); bits != 0; bits &= bits - 1) {
      const std::uint64_t index = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
      if (index >= pages) return fail(Errc::protocol, "page {} of only {} is marked", index, pages);
      ++header.pages_in_file;
      if (header.page_indexes.size() < kMaxPageIndexes) header.page_indexes.push_back(index);
      if (all != nullptr) all->push_back(index);
    }
  }
  return {};
}

}  // namespace handover::stream
