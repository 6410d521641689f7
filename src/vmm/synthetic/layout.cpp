#include "vmm/synthetic/layout.h"

#include <algorithm>

namespace handover::vmm::synthetic {
namespace {

std::uint64_t table_pages(std::uint64_t pages) {
  return align_up(pages * sizeof(std::uint32_t), kPageSize) / kPageSize;
}

}  // namespace

Result<Layout> Layout::plan(std::uint64_t ram_size, std::uint32_t devices, std::uint64_t working_set_bytes) {
  if (devices > kMaxDevices)
    return fail(Errc::limit, "the guest drives at most {} devices, not {}", kMaxDevices, devices);
  Layout layout;
  layout.ram_size = ram_size;
  layout.devices = devices;
  layout.table = kPageSize + devices * DeviceArea::kBytes;
  constexpr std::uint64_t kSmallest = 16;  // pages
  const std::uint64_t needed = layout.table + (1 + kSmallest) * kPageSize;
  if (ram_size < needed)
    return fail(Errc::invalid_argument,
                "{} bytes of RAM are too few for the guest with {} devices; give it at least {} KiB",
                ram_size, devices, needed / KiB);

  const std::uint64_t left = (ram_size - layout.table) / kPageSize;
  // A page of table covers 1024 pages.
  const std::uint64_t most = left - table_pages(left);
  layout.working_set_pages =
      working_set_bytes == 0 ? std::max(kSmallest, most / 4 * 3) : working_set_bytes / kPageSize;
  if (layout.working_set_pages == 0 || layout.working_set_pages > most)
    return fail(Errc::invalid_argument,
                "a working set of {} bytes does not fit; with {} MiB of RAM and {} devices it can "
                "have {} to {} bytes",
                working_set_bytes, ram_size / MiB, devices, kPageSize, most * kPageSize);
  layout.working_set = layout.table + table_pages(layout.working_set_pages) * kPageSize;
  if (ram_size > GuestMemory::kHoleStart && layout.working_set > GuestMemory::kHoleStart)
    return fail(
        Errc::limit,
        "the guest's table for a working set of {} bytes does not fit below 3 GiB; choose a smaller one",
        layout.working_set_pages * kPageSize);
  return layout;
}

}  // namespace handover::vmm::synthetic
