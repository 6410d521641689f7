#include "handover/memory/guest_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "handover/memory/guest_race.h"
#include "memory/range_pieces.h"

namespace handover {
namespace {

constexpr std::uint64_t kHugePage = 2 * MiB;

Status check_size(std::string_view name, std::uint64_t size, bool huge_pages) {
  if (size == 0) return fail(Errc::invalid_argument, "RAM block `{}` cannot have 0 bytes", name);
  const std::uint64_t unit = huge_pages ? kHugePage : kPageSize;
  if (size % unit != 0)
    return fail(Errc::invalid_argument, "RAM block `{}`: {} bytes are not a multiple of the page size {}",
                name, size, unit);
  if (size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
    return fail(Errc::limit, "RAM block `{}`: {} bytes are more than a file can have", name, size);
  return {};
}

}  // namespace

RamBlock::RamBlock(std::string name, UniqueFd fd, Mapping mapping)
    : name_(std::move(name)), fd_(std::move(fd)), mapping_(std::move(mapping)), written_(pages()) {
}

Result<std::unique_ptr<RamBlock>> RamBlock::create(std::string name, std::uint64_t size, bool huge_pages) {
  if (name.empty() || name.size() > 200)
    return fail(Errc::invalid_argument, "a RAM block's name has 1 to 200 characters, not {}", name.size());
  HANDOVER_TRY(check_size(name, size, huge_pages));

  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge_pages) flags |= MFD_HUGETLB | MFD_HUGE_2MB;
  UniqueFd fd(::memfd_create(("handover-" + name).c_str(), flags));
  if (!fd) return fail_errno(errno, "cannot create memory for RAM block `{}`", name);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return fail_errno(errno, "cannot size RAM block `{}` to {} bytes", name, size);
  // A process that the descriptor is given to can neither cut the memory from under us nor add seals.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return fail_errno(errno, "cannot seal the size of RAM block `{}`", name);

  auto mapping = Mapping::shared(fd.get(), 0, size, PROT_READ | PROT_WRITE);
  if (!mapping && huge_pages && mapping.error().sys_errno() == ENOMEM)
    return fail(Errc::io,
                "RAM block `{}` needs {} free huge pages of 2 MiB and the host has fewer; reserve them with "
                "`sysctl vm.nr_hugepages={}` or go without huge pages",
                name, size / kHugePage, size / kHugePage);
  if (!mapping) return std::unexpected(std::move(mapping).error().with_context("RAM block `" + name + "`"));
  return std::unique_ptr<RamBlock>(new RamBlock(std::move(name), std::move(fd), std::move(*mapping)));
}

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::uint64_t size, bool huge_pages,
                                                         std::string block_name) {
  HANDOVER_ASSIGN(auto block, RamBlock::create(std::move(block_name), size, huge_pages));
  auto memory = std::make_unique<GuestMemory>();
  const std::uint64_t low = std::min(size, kHoleStart);
  memory->ranges_.push_back({Gpa{0}, low, block.get(), 0});
  if (size > low) memory->ranges_.push_back({Gpa{kHoleEnd}, size - low, block.get(), low});
  memory->blocks_.push_back(std::move(block));
  return memory;
}

Status GuestMemory::allocate() {
  for (const auto& block : blocks_) {
    if (::madvise(block->data(), block->size(), MADV_POPULATE_WRITE) == 0) continue;
    // Before Linux 5.14 the file can be filled, if not the page table.
    if (errno != EINVAL || ::fallocate(block->fd(), 0, 0, static_cast<off_t>(block->size())) != 0)
      return fail_errno(errno, "the host cannot give {} bytes for RAM block `{}`", block->size(),
                        block->name());
  }
  return {};
}

RamBlock* GuestMemory::find_block(std::string_view name) const {
  for (const auto& block : blocks_)
    if (block->name() == name) return block.get();
  return nullptr;
}

std::uint64_t GuestMemory::size() const {
  std::uint64_t total = 0;
  for (const auto& block : blocks_)
    total += block->size();
  return total;
}

std::span<std::byte> GuestMemory::at(Gpa start, std::uint64_t length) const {
  for (const auto& range : ranges_) {
    if (start < range.start) continue;
    const std::uint64_t offset = start.value - range.start.value;
    if (range_fits(offset, length, range.size)) return {range.block->data() + range.offset + offset, length};
  }
  return {};
}

// No two ranges touch, so what is all RAM is also contiguous.
bool GuestMemory::read(Gpa at_address, std::span<std::byte> to) const {
  if (to.empty()) return true;
  const auto from = at(at_address, to.size());
  if (from.empty()) return false;
  const GuestRace race;
  std::memcpy(to.data(), from.data(), to.size());
  return true;
}

bool GuestMemory::write(Gpa at_address, std::span<const std::byte> from) {
  if (from.empty()) return true;
  const auto to = at(at_address, from.size());
  if (to.empty()) return false;
  {
    const GuestRace race;
    std::memcpy(to.data(), from.data(), from.size());
  }
  mark_written(at_address, from.size());
  return true;
}

void GuestMemory::mark_written(Gpa start, std::uint64_t length) {
  // Keeps the compiler from looking before the write; ProcessWrites::start() does the same to the CPUs.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (!logging()) return;
  for_each_ram_piece(ranges_, start, length, [](RamBlock& block, std::uint64_t first, std::uint64_t pages) {
    block.written().mark_range(first, pages);
  });
}

}  // namespace handover
