#include "memory/mapped_ram_reader.h"

#include <algorithm>
#include <cstring>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/memory/zero_page.h"
#include "memory/backed_pages.h"
#include "memory/mapped_ram_layout.h"

namespace handover {
namespace {

/// Pages read by one call.
constexpr std::uint64_t kRunPages = 256;

/// Memory that the host has not given yet is zero; to look at it would make the host give it.
void clear(RamBlock& block, BackedPages& there, PageRun run) {
  const std::uint64_t end = run.first + run.count;
  while (run.count > 0) {
    const auto backed = there.next(run);
    for (std::uint64_t page = backed.first; page < backed.first + backed.count; ++page)
      if (const auto bytes = block.page(page); !is_zero_page(bytes.data()))
        std::memset(bytes.data(), 0, bytes.size());
    run.first = backed.first + backed.count;
    run.count = end - run.first;
  }
}

}  // namespace

Result<std::unique_ptr<MappedRamReader>> MappedRamReader::create(StreamReader& in, const Options& options) {
  auto* file = in.channel().file();
  if (!file)
    return fail(Errc::unsupported,
                "the stream has its pages at places of their own (`mapped-ram`), and {} is no regular file; "
                "load it from file:PATH",
                in.channel().name());
  if (options.direct_io && !file->go_direct())
    log::warn("the file system of {} has no direct I/O; pages go through the page cache", file->name());
  return std::unique_ptr<MappedRamReader>(new MappedRamReader(*file, options));
}

Result<MappedRamReader::Counts> MappedRamReader::load_block(StreamReader& in, RamBlock& block) {
  HANDOVER_ASSIGN(const auto header, mapped_ram::read_header(in));
  const auto here = file_.start() + in.offset();
  HANDOVER_ASSIGN(const auto size, file_.size());
  HANDOVER_TRY_CONTEXT(mapped_ram::check(header, here, block.name(), block.size(), size), "{}", file_.name());
  HANDOVER_TRACE(mapped_ram_block, block.name().c_str(), header.bitmap_offset, header.pages_offset);

  HANDOVER_ASSIGN_CONTEXT(const auto present, read_bitmap(header.bitmap_offset, block),
                          "the bitmap of RAM block `{}` at byte {} of {}", block.name(), header.bitmap_offset,
                          file_.name());
  Counts counts;
  BackedPages there(block);
  for (std::uint64_t page = 0; page < block.pages();) {
    const auto run = present.next_run(page);
    clear(block, there, {page, run.first - page});
    HANDOVER_TRY(read_pages(block, header.pages_offset, run));
    counts.zero_pages += run.first - page;
    counts.normal_pages += run.count;
    page = run.first + run.count;
  }
  const auto behind = header.pages_offset + block.size();
  counts.passed_over = behind - here;
  HANDOVER_TRY(in.skip(counts.passed_over));
  return counts;
}

Result<MappedRamBitmap> MappedRamReader::read_bitmap(std::uint64_t position, const RamBlock& block) {
  // As large as this side's own block says.
  std::vector<std::byte> bytes(mapped_ram::bitmap_bytes(block.pages()));
  HANDOVER_TRY(file_.read_at(position, bytes));
  return MappedRamBitmap::decode(bytes, block.pages());
}

Status MappedRamReader::read_pages(RamBlock& block, std::uint64_t position, PageRun run) {
  for (const std::uint64_t end = run.first + run.count; run.first < end; run.first += run.count) {
    run.count = std::min(kRunPages, end - run.first);
    HANDOVER_TRY(workers_.submit([this, &block, position, run]() -> Status {
      HANDOVER_TRY_CONTEXT(file_.read_at(position + run.first * kPageSize,
                                         {block.page(run.first).data(), run.count * kPageSize}),
                           "loading RAM block `{}` from page {} on", block.name(), run.first);
      return {};
    }));
  }
  return {};
}

}  // namespace handover
