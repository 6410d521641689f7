#include "vfio_user/dma/dma_table.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "handover/base/guarded_copy.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

std::unexpected<Error> refuse(int err, std::string text) {
  return std::unexpected(Error(Errc::invalid_argument, std::move(text), err));
}

}  // namespace

std::shared_lock<std::shared_mutex> DmaTable::lock_shared() const {
  {
    std::lock_guard pass(turnstile_);
  }
  return std::shared_lock(mutex_);
}

std::unique_lock<std::shared_mutex> DmaTable::lock_exclusive() const {
  std::lock_guard pass(turnstile_);
  return std::unique_lock(mutex_);
}

// The last entry that starts at or before the address.
DmaTable::Entries::const_iterator DmaTable::at_or_before(std::uint64_t address) const {
  auto after = entries_.upper_bound(address);
  return after == entries_.begin() ? entries_.end() : std::prev(after);
}

Status DmaTable::attach_file(Entry& entry, const UniqueFd& fd) const {
  struct stat file;
  if (::fstat(fd.get(), &file) < 0) return refuse(errno, "cannot look at the descriptor of a DMA mapping");
  if (!S_ISREG(file.st_mode)) return refuse(EINVAL, "the descriptor of a DMA mapping is no file");
  if (!range_fits(entry.offset, entry.size, static_cast<std::uint64_t>(file.st_size)))
    return refuse(EINVAL, fmt::format("DMA mapping of {} bytes at offset {} of a file of {} bytes",
                                      entry.size, entry.offset, file.st_size));
  entry.has_file = true;
  entry.device = file.st_dev;
  entry.inode = file.st_ino;
  const int prot =
      (entry.flags & kDmaMapRead ? PROT_READ : 0) | (entry.flags & kDmaMapWrite ? PROT_WRITE : 0);
  if (prot == 0) return {};
  struct statfs system;
  // Huge pages are mapped and unmapped whole.
  const bool huge = ::fstatfs(fd.get(), &system) == 0 && system.f_type == HUGETLBFS_MAGIC;
  const auto page = huge ? static_cast<std::uint64_t>(system.f_bsize) : kPageSize;
  entry.delta = entry.offset % page;
  auto length = entry.delta + entry.size;
  if (huge) length = align_up(length, page);
  auto mapping = Mapping::shared(fd.get(), entry.offset - entry.delta, length, prot);
  if (!mapping) return refuse(mapping.error().sys_errno(), mapping.error().to_string());
  entry.mapping = std::move(*mapping);
  entry.guarded = !cannot_shrink(fd.get());
  return {};
}

Status DmaTable::map(const DmaMap& request, UniqueFd fd) {
  constexpr auto kModes = kDmaMapUseMmap | kDmaMapUseFileIo;
  if (request.argsz < wire_size<DmaMap>()) return refuse(EINVAL, "argsz of DMA_MAP is too small");
  if (request.flags & ~(kDmaMapRead | kDmaMapWrite | kModes))
    return refuse(EINVAL, "unknown flags in DMA_MAP");
  if ((request.flags & kModes) && (!fd || (request.flags & kModes) == kModes))
    return refuse(EINVAL, "flags of DMA_MAP exclude each other");
  if (request.size == 0) return refuse(EINVAL, "DMA_MAP of nothing");
  const auto last = request.address + (request.size - 1);
  if (last < request.address) return refuse(EINVAL, "DMA_MAP wraps around the end of the address space");
  if (request.offset + request.size < request.offset)
    return refuse(EINVAL, "offset and size of DMA_MAP overflow");

  Entry entry;
  entry.size = request.size;
  entry.flags = request.flags & (kDmaMapRead | kDmaMapWrite);
  entry.offset = fd ? request.offset : 0;

  // Only the loop changes the entries, so it may read them without the lock.
  if (const auto before = at_or_before(last); before != entries_.end()) {
    const auto& [start, there] = *before;
    if (start + (there.size - 1) >= request.address) {
      struct stat file = {};
      const bool same = start == request.address && there.size == entry.size && there.flags == entry.flags &&
                        there.offset == entry.offset && there.has_file == static_cast<bool>(fd) &&
                        (!fd || (::fstat(fd.get(), &file) == 0 && file.st_dev == there.device &&
                                 file.st_ino == there.inode));
      if (same) return {};
      return refuse(EEXIST,
                    fmt::format("DMA_MAP at {:#x} overlaps the mapping at {:#x}", request.address, start));
    }
  }
  if (entries_.size() >= max_ranges_)
    return refuse(ENOSPC, fmt::format("more than {} DMA mappings", max_ranges_));
  if (fd) HANDOVER_TRY(attach_file(entry, fd));
  auto lock = lock_exclusive();
  entries_.emplace(request.address, std::move(entry));
  return {};
}

Result<std::vector<DmaTable::Range>> DmaTable::inside(std::uint64_t start, std::uint64_t last) const {
  const auto cut = [&](Entries::const_iterator entry) {
    return refuse(EINVAL, fmt::format("the mapping at {:#x} would be cut", entry->first));
  };
  if (const auto before = at_or_before(start);
      before != entries_.end() && before->first < start && before->first + (before->second.size - 1) >= start)
    return cut(before);
  std::vector<Range> ranges;
  for (auto entry = entries_.lower_bound(start); entry != entries_.end() && entry->first <= last; ++entry) {
    if (entry->first + (entry->second.size - 1) > last) return cut(entry);
    ranges.push_back({entry->first, entry->second.size});
  }
  return ranges;
}

bool DmaTable::any_in(std::uint64_t start, std::uint64_t last) const {
  const auto before = at_or_before(last);
  return before != entries_.end() && before->first + (before->second.size - 1) >= start;
}

std::vector<DmaTable::Range> DmaTable::all() const {
  std::vector<Range> ranges;
  for (const auto& [start, entry] : entries_)
    ranges.push_back({start, entry.size});
  return ranges;
}

void DmaTable::remove(std::span<const Range> ranges) {
  std::vector<Entry> gone;  // unmapped after the lock is free
  auto lock = lock_exclusive();
  for (const auto& range : ranges)
    if (auto entry = entries_.find(range.start); entry != entries_.end()) {
      gone.push_back(std::move(entry->second));
      entries_.erase(entry);
    }
  lock.unlock();
}

void DmaTable::clear() {
  auto lock = lock_exclusive();
  auto gone = std::exchange(entries_, {});
  lock.unlock();
}

Status DmaTable::check(Iova start, std::uint64_t size, std::uint32_t permission) const {
  if (size == 0) return {};
  const auto last = start.value + (size - 1);
  const auto refused = [&] {
    return fail(Errc::invalid_argument, "DMA to [{:#x}, +{:#x}) that is not mapped for it", start.value,
                size);
  };
  if (last < start.value) return refused();
  auto lock = lock_shared();
  for (auto at = start.value;;) {
    const auto entry = at_or_before(at);
    if (entry == entries_.end()) return refused();
    const auto entry_last = entry->first + (entry->second.size - 1);
    if (entry_last < at || !(entry->second.flags & permission)) return refused();
    if (entry_last >= last) return {};
    at = entry_last + 1;
  }
}

// Under the lock: where the front of the range is.
Result<DmaTable::Place> DmaTable::place(Iova start, std::size_t size, std::uint32_t permission) const {
  const auto entry = at_or_before(start.value);
  if (entry == entries_.end() || start.value - entry->first >= entry->second.size ||
      !(entry->second.flags & permission))
    return fail(Errc::invalid_argument, "DMA to {:#x} that is not mapped for it", start.value);
  const auto offset = start.value - entry->first;
  const auto bytes = std::min<std::uint64_t>({size, entry->second.size - offset, kCopyStep});
  auto* data = entry->second.mapping.data();
  return Place{&entry->second, data ? data + entry->second.delta + offset : nullptr, bytes};
}

Result<DmaTable::Step> DmaTable::read_some(Iova from, std::span<std::byte> to) const {
  auto lock = lock_shared();
  HANDOVER_ASSIGN(auto where, place(from, to.size(), kDmaMapRead));
  if (!where.at) return Step{where.bytes, true};
  const auto part = to.first(where.bytes);
  if (!where.entry->guarded)
    std::memcpy(part.data(), where.at, part.size());
  else if (!guarded_read(part, where.at))
    return fail(Errc::io, "DMA from {:#x}: the memory behind the mapping is gone", from.value);
  return Step{part.size(), false};
}

Result<DmaTable::Step> DmaTable::write_some(Iova to, std::span<const std::byte> from) {
  auto lock = lock_shared();
  HANDOVER_ASSIGN(auto where, place(to, from.size(), kDmaMapWrite));
  if (!where.at) return Step{where.bytes, true};
  const auto part = from.first(where.bytes);
  bool written = true;
  if (!where.entry->guarded)
    std::memcpy(where.at, part.data(), part.size());
  else
    written = guarded_write(where.at, part);
  // After the write, and also after one that failed half-way.
  log_.written(to.value, part.size());
  if (!written) return fail(Errc::io, "DMA to {:#x}: the memory behind the mapping is gone", to.value);
  return Step{part.size(), false};
}

}  // namespace handover::vfio_user
