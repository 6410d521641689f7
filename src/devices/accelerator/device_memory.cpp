#include "devices/accelerator/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "devices/accelerator/size_text.h"

namespace handover::accelerator {
namespace {

constexpr std::uint64_t kHugePage = 2 * MiB;

PageRun pages_of(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return {offset / kPageSize, 0};
  const std::uint64_t first = offset / kPageSize;
  return {first, (offset + length - 1) / kPageSize - first + 1};
}

// Not reserved: a device with much memory of which little is used must start on any host.
void* map(void* over, std::uint64_t size) {
  const int fixed = over ? MAP_FIXED : 0;
  return ::mmap(over, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1,
                0);
}

}  // namespace

void DeviceMemory::Unmap::operator()(std::byte* data) const {
  ::munmap(data, size);
}

Result<std::unique_ptr<DeviceMemory>> DeviceMemory::create(std::uint64_t size) {
  if (size < kMinMemory || size > kMaxMemory || size % kPageSize != 0)
    return fail(Errc::invalid_argument, "device memory of {}: must be whole pages of 4 KiB, from {} up to {}",
                size_text(size), size_text(kMinMemory), size_text(kMaxMemory));
  void* at = map(nullptr, size);
  if (at == MAP_FAILED) return fail_errno(errno, "cannot map {} of device memory", size_text(size));
  return std::unique_ptr<DeviceMemory>(new DeviceMemory(static_cast<std::byte*>(at), size));
}

DeviceMemory::DeviceMemory(std::byte* data, std::uint64_t size)
    : size_(size),
      data_(data, Unmap{size}),
      dirty_(size / kPageSize),
      written_((size + kChunkSize - 1) / kChunkSize) {
}

DeviceMemory::Write::Write(DeviceMemory& memory, std::uint64_t offset, std::uint64_t length)
    : memory_(memory), pages_(pages_of(offset, length)), bytes_(memory.data_.get() + offset, length) {
  memory_.claims_.begin_write(pages_);
}

DeviceMemory::Write::~Write() {
  memory_.log(pages_);
  memory_.claims_.end_write();
}

void DeviceMemory::log(PageRun pages) {
  if (pages.count == 0) return;
  // Chunks first: a session that begins between the two finds the pages one way or the other.
  const std::uint64_t first = pages.first / kPagesPerChunk;
  written_.mark_range(first, (pages.first + pages.count - 1) / kPagesPerChunk - first + 1);
  dirty_.mark_range(pages.first, pages.count);
}

std::span<std::byte> DeviceMemory::load(PageRun pages) {
  log(pages);
  return {data_.get() + pages.first * kPageSize, pages.count * kPageSize};
}

void DeviceMemory::load_zero(PageRun pages) {
  const std::uint64_t end = pages.first + pages.count;
  for (std::uint64_t page = pages.first; page < end;) {
    const std::uint64_t chunk = page / kPagesPerChunk;
    const std::uint64_t stop = std::min(end, (chunk + 1) * kPagesPerChunk);
    // What was never written is zero already; touching it would only allocate it.
    if (written_.test(chunk)) std::ranges::fill(load({page, stop - page}), std::byte{0});
    page = stop;
  }
}

void DeviceMemory::mark_all_written_dirty() {
  for (std::uint64_t chunk = 0; chunk < chunks(); ++chunk)
    if (written_.test(chunk)) dirty_.mark_range(chunk * kPagesPerChunk, kPagesPerChunk);
}

void DeviceMemory::expect(std::uint64_t first_chunk, std::uint64_t count) {
  const auto base = reinterpret_cast<std::uintptr_t>(data_.get());
  const auto begin = align_up(base + first_chunk * kChunkSize, kHugePage);
  const auto end = (base + std::min(size_, (first_chunk + count) * kChunkSize)) / kHugePage * kHugePage;
  // Advice: a host that has no huge pages to give goes on with small ones.
  if (begin < end) ::madvise(data_.get() + (begin - base), end - begin, MADV_HUGEPAGE);
}

Status DeviceMemory::clear() {
  // A mapping anew, so that what was advised of the old one is forgotten, too.
  if (map(data_.get(), size_) == MAP_FAILED)
    return fail_errno(errno, "cannot clear {} of device memory", size_text(size_));
  dirty_.clear();
  written_.clear();
  return {};
}

}  // namespace handover::accelerator
