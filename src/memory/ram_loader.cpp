#include "memory/ram_loader.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "handover/base/trace.h"
#include "handover/memory/zero_page.h"
#include "handover/stream/format.h"
#include "memory/backed_pages.h"
#include "memory/mapped_ram_layout.h"

namespace handover {
namespace {

using namespace stream;

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);
/// Pages written by one call; more than fit into a reader's usual buffer.
constexpr std::size_t kLongestRun = 256;
constexpr std::uint64_t kObsoleteFull = 0x001;
constexpr std::uint64_t kRdmaHook = 0x080;
constexpr std::uint64_t kObsoleteCompressed = 0x100;

/// In the largest unit that leaves no fraction.  `short_form` as a size is typed: 2G; else 2 GiB.
std::string size_text(std::uint64_t bytes, bool short_form) {
  struct Unit {
    std::uint64_t size;
    std::string_view name;
    std::string_view letter;
  };
  for (const Unit& unit : {Unit{GiB, "GiB", "G"}, Unit{MiB, "MiB", "M"}, Unit{KiB, "KiB", "K"}})
    if (bytes >= unit.size && bytes % unit.size == 0)
      return short_form ? fmt::format("{}{}", bytes / unit.size, unit.letter)
                        : fmt::format("{} {}", bytes / unit.size, unit.name);
  return short_form ? fmt::format("{}", bytes) : fmt::format("{} bytes", bytes);
}

std::unexpected<Error> refuse_kind(std::uint64_t at, std::uint64_t flags) {
  switch (flags) {
    case ram::kXbzrle:
      return fail(Errc::unsupported, "XBZRLE page at stream offset {}: turn `xbzrle` off on the source", at);
    case ram::kMultifdFlush:
      return fail(Errc::protocol,
                  "a synchronisation point for multifd channels at stream offset {}, and there are none", at);
    case kRdmaHook:
      return fail(Errc::unsupported, "RDMA word at stream offset {}: use tcp: instead of rdma:", at);
    case kObsoleteFull:
    case kObsoleteCompressed:
      return fail(Errc::unsupported, "obsolete RAM flag {:#05x} at stream offset {}", flags, at);
    default:
      return fail(Errc::protocol, "RAM flags {:#05x} at stream offset {} mean nothing", flags, at);
  }
}

}  // namespace

RamLoader::RamLoader(GuestMemory& memory, RamProgress& progress, std::function<Status()> barrier)
    : progress_(progress), barrier_(std::move(barrier)) {
  for (const auto& ram : memory.blocks()) {
    Block block{.ram = ram.get(), .touched = std::make_unique<DirtyBitmap>(ram->pages())};
    // What was put into this memory before the migration must give way to a zero page.
    BackedPages there(*ram);
    PageRun rest{0, ram->pages()};
    while (rest.count > 0) {
      const PageRun backed = there.next(rest);
      block.touched->mark_range(backed.first, backed.count);
      rest = {backed.first + backed.count, ram->pages() - (backed.first + backed.count)};
    }
    blocks_.push_back(std::move(block));
  }
}

Status RamLoader::load(StreamReader& in) {
  loaded_ = {};
  passed_over_ = 0;
  const std::uint64_t start = in.offset();
  Word word;
  for (;;) {
    word.at = in.offset();
    HANDOVER_ASSIGN(word.value, in.be64());
    if (word.flags() == ram::kEos) break;
    if (word.flags() == ram::kMemSize)
      HANDOVER_TRY(load_block_list(in, word));
    else if (word.value == ram::kMultifdFlush && barrier_ && have_list_)
      HANDOVER_TRY(barrier_());
    else
      HANDOVER_TRY(load_page_record(in, word));
  }
  if (word.address() != 0)
    return fail(Errc::protocol, "end-of-section word {:#x} at stream offset {} has an address", word.value,
                word.at);
  loaded_.bytes += in.offset() - start - passed_over_;
  progress_.count(loaded_);
  HANDOVER_TRACE(ram_load, loaded_.bytes, loaded_.normal_pages, loaded_.zero_pages);
  return {};
}

Status RamLoader::load_block_list(StreamReader& in, const Word& word) {
  if (have_list_) return fail(Errc::protocol, "a second list of RAM blocks at stream offset {}", word.at);
  const std::uint64_t total = word.address();
  std::uint64_t sum = 0;
  if (mapped_ram_) {
    HANDOVER_ASSIGN(mapped_reader_, MappedRamReader::create(in, *mapped_ram_));
  }
  while (sum < total)
    HANDOVER_TRY(load_block_entry(in, total, sum));
  if (mapped_reader_) HANDOVER_TRY(mapped_reader_->finish());
  have_list_ = true;
  return {};
}

Status RamLoader::load_block_entry(StreamReader& in, std::uint64_t total, std::uint64_t& sum) {
  const std::uint64_t at = in.offset();
  HANDOVER_ASSIGN(const auto name, in.str8());
  HANDOVER_ASSIGN(const auto length, in.be64());
  Block* block = nullptr;
  for (auto& candidate : blocks_)
    if (candidate.ram->name() == name) block = &candidate;
  if (!block)
    return fail(Errc::mismatch, "RAM block `{}` (stream offset {}) does not exist here; there is {}", name,
                at, known_names());
  if (block->listed)
    return fail(Errc::protocol, "RAM block `{}` is listed again at stream offset {}", name, at);
  block->listed = true;
  if (length != block->ram->size())
    return fail(Errc::mismatch,
                "RAM block `{}` is {} here and {} in the stream; start the destination with --memory {}",
                name, size_text(block->ram->size(), false), size_text(length, false),
                size_text(length, true));
  if (!range_fits(sum, length, total))
    return fail(Errc::protocol, "RAM blocks up to `{}` (stream offset {}) are more than the announced {}",
                name, at, size_text(total, false));
  sum += length;
  return mapped_reader_ ? load_mapped_block(in, *block->ram) : Status{};
}

Status RamLoader::load_mapped_block(StreamReader& in, RamBlock& ram) {
  HANDOVER_ASSIGN(const auto counts, mapped_reader_->load_block(in, ram));
  loaded_.normal_pages += counts.normal_pages;
  loaded_.zero_pages += counts.zero_pages;
  loaded_.bytes += mapped_ram::bitmap_bytes(ram.pages()) + counts.normal_pages * kPageSize;
  passed_over_ += counts.passed_over;
  return {};
}

Status RamLoader::load_page_record(StreamReader& in, const Word& word) {
  const std::uint64_t kind = word.flags() & ~ram::kContinue;
  if (mapped_ram_)
    return fail(Errc::protocol,
                "RAM word {:#x} at stream offset {}: in a mapped-ram file pages are not in the stream",
                word.value, word.at);
  if (kind != ram::kPage && kind != ram::kZero) return refuse_kind(word.at, word.flags());
  if (!have_list_)
    return fail(Errc::protocol, "a page before the list of RAM blocks, at stream offset {}", word.at);
  HANDOVER_TRY(choose_block(in, word));
  if (!range_fits(word.address(), kPageSize, current_->ram->size()))
    return fail(Errc::protocol, "page at {:#x} (stream offset {}) lies outside RAM block `{}` of {}",
                word.address(), word.at, current_->ram->name(), size_text(current_->ram->size(), false));
  const std::uint64_t page = word.address() / kPageSize;
  return kind == ram::kZero ? load_zero(in, page) : load_normal(in, page);
}

Status RamLoader::choose_block(StreamReader& in, const Word& word) {
  if ((word.flags() & ram::kContinue) != 0) {
    if (!current_)
      return fail(Errc::protocol, "page at stream offset {} continues a RAM block before any was named",
                  word.at);
    return {};
  }
  HANDOVER_ASSIGN(const auto name, in.str8());
  HANDOVER_ASSIGN(current_, listed_block(name, word.at));
  return {};
}

Result<RamLoader::Block*> RamLoader::listed_block(const std::string& name, std::uint64_t at) {
  for (auto& block : blocks_) {
    if (block.ram->name() != name) continue;
    if (!block.listed)
      return fail(Errc::protocol, "page of RAM block `{}`, which was not listed, at stream offset {}", name,
                  at);
    return &block;
  }
  return fail(Errc::mismatch,
              "page of RAM block `{}` (stream offset {}), which does not exist here; there is {}", name, at,
              known_names());
}

Status RamLoader::load_pages(const stream::multifd::RamPacket& packet, StreamReader& in) {
  const auto at = in.offset();
  if (!have_list_) return fail(Errc::protocol, "pages before the list of RAM blocks");
  HANDOVER_ASSIGN(Block * block, listed_block(packet.block, at));
  const auto& ram = *block->ram;
  const auto outside = [&](std::uint64_t offset) { return !range_fits(offset, kPageSize, ram.size()); };
  if (std::ranges::any_of(packet.normal_offsets(), outside) ||
      std::ranges::any_of(packet.zero_offsets(), outside))
    return fail(Errc::protocol, "a page (stream offset {}) lies outside RAM block `{}` of {}", at, ram.name(),
                size_text(ram.size(), false));

  for (const auto offset : packet.zero_offsets()) {
    const auto bytes = ram.page(offset / kPageSize);
    if (block->touched->test(offset / kPageSize) && !is_zero_page(bytes.data()))
      std::memset(bytes.data(), 0, bytes.size());
  }
  std::array<iovec, stream::multifd::kPagesPerPacket> parts;
  std::size_t count = 0;
  for (const auto offset : packet.normal_offsets()) {
    block->touched->mark(offset / kPageSize);
    auto* to = ram.data() + offset;
    if (count > 0 && static_cast<std::byte*>(parts[count - 1].iov_base) + parts[count - 1].iov_len == to)
      parts[count - 1].iov_len += kPageSize;
    else
      parts[count++] = {to, kPageSize};
  }
  HANDOVER_TRY(in.scatter(std::span(parts).first(count)));
  progress_.count({.bytes = stream::multifd::kRamHeaderSize + packet.normal * kPageSize,
                   .normal_pages = packet.normal,
                   .zero_pages = packet.zero});
  return {};
}

Status RamLoader::load_zero(StreamReader& in, std::uint64_t page) {
  const std::uint64_t at = in.offset();
  HANDOVER_ASSIGN(const auto fill, in.u8());
  if (fill != 0) return fail(Errc::protocol, "zero page filled with {:#04x} at stream offset {}", fill, at);
  const auto bytes = current_->ram->page(page);
  if (current_->touched->test(page) && !is_zero_page(bytes.data()))
    std::memset(bytes.data(), 0, bytes.size());
  ++loaded_.zero_pages;
  return {};
}

Status RamLoader::load_normal(StreamReader& in, std::uint64_t page) {
  if (!current_->touched->test(page)) {
    HANDOVER_ASSIGN(const bool written, write_fresh_run(in, page));
    if (written) return {};
  }
  current_->touched->mark(page);
  ++loaded_.normal_pages;
  return in.bytes(current_->ram->page(page));
}

// The first write to a page through the mapping costs a fault and a page of zeros that nobody wants; through
// the descriptor it costs neither, and a run of pages that is buffered already goes in one call.  That one
// copy is cheaper than none: a socket read straight into fresh memory, with every page's place known
// beforehand, is slower (bench/ram_throughput), so the reader does not guess where the next page belongs.
Result<bool> RamLoader::write_fresh_run(StreamReader& in, std::uint64_t first) {
  const auto ready = in.buffered();
  std::array<iovec, kLongestRun> parts;
  std::uint64_t count = 0;
  std::size_t at = 0;
  while (current_->takes_writes && range_fits(at, kPageSize, ready.size())) {
    parts[count++] = {const_cast<std::byte*>(ready.data() + at), kPageSize};
    at += kPageSize;
    const std::uint64_t next = first + count;
    if (count == kLongestRun || next == current_->ram->pages() || current_->touched->test(next)) break;
    if (!range_fits(at, kWordBytes, ready.size())) break;
    if (load_be<std::uint64_t>(ready.data() + at) != (next * kPageSize | ram::kPage | ram::kContinue)) break;
    at += kWordBytes;
  }
  if (count == 0) return false;

  const ssize_t put = ::pwritev(current_->ram->fd(), parts.data(), static_cast<int>(count),
                                static_cast<off_t>(first * kPageSize));
  if (put < 0 && errno == EINVAL) current_->takes_writes = false;  // huge pages have no write
  if (put < 0 && errno != EINVAL && errno != EINTR)
    return fail_errno(errno, "cannot fill RAM block `{}` from page {} on", current_->ram->name(), first);
  // What a short write left of a page is written again with the page.
  const std::uint64_t written = put < 0 ? 0 : static_cast<std::uint64_t>(put) / kPageSize;
  current_->touched->mark_range(first, count);
  if (written == 0) return false;
  loaded_.normal_pages += written;
  HANDOVER_TRY(in.skip(written * kPageSize + (written - 1) * kWordBytes));
  return true;
}

std::string RamLoader::known_names() const {
  std::string names;
  for (const auto& block : blocks_)
    names += (names.empty() ? "`" : ", `") + block.ram->name() + "`";
  return names;
}

}  // namespace handover
