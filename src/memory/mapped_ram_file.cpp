#include "handover/memory/mapped_ram_file.h"

#include <algorithm>
#include <atomic>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/channel/positioned_file.h"
#include "handover/memory/guest_race.h"
#include "handover/memory/zero_page.h"
#include "memory/mapped_ram_bitmap.h"
#include "memory/mapped_ram_layout.h"
#include "memory/mapped_ram_workers.h"

namespace handover {
namespace {

/// A block's place in the file.
struct Area {
  Area(const RamBlock& of, const mapped_ram::Header& at) : block(of), header(at), present(of.pages()) {}
  std::uint64_t place_of(std::uint64_t page) const { return header.pages_offset + page * kPageSize; }

  const RamBlock& block;
  mapped_ram::Header header;
  MappedRamBitmap present;
};

}  // namespace

struct MappedRamFile::Impl {
  Impl(PositionedFile& into, const Options& with) : file(into), workers(with.threads, with.cancel) {}

  Result<Area*> area_of(const RamBlock& block);
  Status write_run(Area& area, PageRun run);
  void leave_out(Area& area, PageRun run);

  PositionedFile& file;
  std::vector<std::unique_ptr<Area>> areas;
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> normal_pages{0};
  std::atomic<std::uint64_t> zero_pages{0};
  MappedRamWorkers workers;  // the last: its jobs use the others
};

Result<Area*> MappedRamFile::Impl::area_of(const RamBlock& block) {
  for (const auto& area : areas)
    if (&area->block == &block) return area.get();
  return fail(Errc::state, "RAM block `{}` has no place in {}", block.name(), file.name());
}

void MappedRamFile::Impl::leave_out(Area& area, PageRun run) {
  for (std::uint64_t page = run.first; page < run.first + run.count; ++page)
    // What an earlier pass has put there is void, whatever becomes of its space.
    if (area.present.clear(page)) file.drop(area.place_of(page), kPageSize);
  zero_pages.fetch_add(run.count, std::memory_order_relaxed);
}

Status MappedRamFile::Impl::write_run(Area& area, PageRun run) {
  const GuestRace race;
  const auto zero = [&](std::uint64_t page) { return is_zero_page(area.block.page(page).data()); };
  const std::uint64_t end = run.first + run.count;
  for (std::uint64_t page = run.first; page < end;) {
    const std::uint64_t first = page;
    if (zero(page)) {
      leave_out(area, {page++, 1});
      continue;
    }
    do
      ++page;
    while (page < end && !zero(page));
    const PageRun part{first, page - first};
    HANDOVER_TRY_CONTEXT(
        file.write_at(area.place_of(first), {area.block.page(first).data(), part.count * kPageSize}),
        "saving RAM block `{}`", area.block.name());
    area.present.mark(part);
    bytes.fetch_add(part.count * kPageSize, std::memory_order_relaxed);
    normal_pages.fetch_add(part.count, std::memory_order_relaxed);
  }
  return {};
}

MappedRamFile::MappedRamFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}

MappedRamFile::~MappedRamFile() = default;

Result<std::unique_ptr<MappedRamFile>> MappedRamFile::create(Channel& channel, const Options& options) {
  auto* file = channel.file();
  if (!file)
    return fail(
        Errc::unsupported,
        "`mapped-ram` puts every page at a place of its own in a file, and {} is no regular file; save "
        "to file:PATH, or turn `mapped-ram` off",
        channel.name());
  if (options.direct_io && !file->go_direct())
    log::warn("the file system of {} has no direct I/O; pages go through the page cache", file->name());
  return std::unique_ptr<MappedRamFile>(new MappedRamFile(std::make_unique<Impl>(*file, options)));
}

Status MappedRamFile::describe_block(StreamWriter& out, const RamBlock& block) {
  HANDOVER_TRY(out.flush());
  HANDOVER_ASSIGN(const auto at, impl_->file.tell());
  const auto header = mapped_ram::place(at + mapped_ram::kHeaderBytes, block.pages());
  mapped_ram::write_header(out, header);
  HANDOVER_TRY(out.flush());
  impl_->areas.push_back(std::make_unique<Area>(block, header));
  HANDOVER_TRACE(mapped_ram_block, block.name().c_str(), header.bitmap_offset, header.pages_offset);
  // The stream goes on behind the pages.
  return impl_->file.seek(header.pages_offset + block.size());
}

Status MappedRamFile::begin(StreamWriter& out) {
  return out.status();
}

Status MappedRamFile::send(const RamBlock& block, PageRun pages, Content content, const CancelToken& cancel) {
  HANDOVER_TRY(cancel.check());
  HANDOVER_ASSIGN(auto* area, impl_->area_of(block));
  if (content == Content::zero) {
    impl_->leave_out(*area, pages);
    return {};
  }
  return impl_->workers.submit([this, area, pages] { return impl_->write_run(*area, pages); });
}

Status MappedRamFile::barrier(StreamWriter& out) {
  HANDOVER_TRY(impl_->workers.drain());
  return out.status();
}

Status MappedRamFile::finish(StreamWriter& out) {
  HANDOVER_TRY(impl_->workers.drain());
  for (const auto& area : impl_->areas) {
    const auto bitmap = area->present.encode();
    HANDOVER_TRY_CONTEXT(impl_->file.write_at(area->header.bitmap_offset, bitmap),
                         "saving the bitmap of RAM block `{}`", area->block.name());
    impl_->bytes.fetch_add(bitmap.size(), std::memory_order_relaxed);
  }
  return out.status();
}

ItemCounters MappedRamFile::counters() const {
  return {.bytes = impl_->bytes.load(std::memory_order_relaxed),
          .normal_pages = impl_->normal_pages.load(std::memory_order_relaxed),
          .zero_pages = impl_->zero_pages.load(std::memory_order_relaxed)};
}

}  // namespace handover
