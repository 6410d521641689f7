#pragma once

#include <cstdint>

#include "devices/accelerator/interface.h"
#include "handover/base/result.h"
#include "handover/memory/guest_memory.h"

namespace handover::vmm::synthetic {

/// Sizes of what the accelerator's driver keeps in guest memory.
inline constexpr std::uint32_t kRingEntries = 64;
inline constexpr std::uint32_t kMaxInFlight = 8;
inline constexpr std::uint64_t kSlotBytes = 64 * KiB;  ///< the most that one job moves
inline constexpr std::uint32_t kMaxSlots = 16384;      ///< 1 GiB of device memory is covered without gaps
inline constexpr std::uint32_t kArchiveEntries = 16;   ///< results of COPY_OUT that stay and are read again
inline constexpr std::uint32_t kMaxDevices = 31;
/// Of a device's window the CPU writes the first half; of the second half, page i belongs to the i-th device,
/// which writes it by DMA.  Devices beyond only receive.
inline constexpr std::uint32_t kWindowPages = accelerator::kWindowSize / kPageSize / 2;
inline constexpr std::uint32_t kPeerPages = kWindowPages;

inline constexpr std::uint64_t kJobRecordBytes = 64;
inline constexpr std::uint64_t kSlotRecordBytes = 16;
inline constexpr std::uint64_t kArchiveRecordBytes = 32;
inline constexpr std::uint64_t kPeerRecordBytes = 32;

/// Behind an IOMMU: completed jobs whose buffers may still be mapped, as a driver that unmaps in batches has.
inline constexpr std::uint32_t kMaxDeferred = 8;

/// Offsets in the memory of one accelerator's driver; everything begins on a page.
struct DeviceArea {
  static constexpr std::uint64_t kSubmission = 0;
  static constexpr std::uint64_t kCompletion = kSubmission + kRingEntries * sizeof(accelerator::Descriptor);
  static constexpr std::uint64_t kJobs = kCompletion + kPageSize;
  static constexpr std::uint64_t kArchiveRecords = kJobs + kRingEntries * kJobRecordBytes;
  static constexpr std::uint64_t kWindowRecords = kArchiveRecords + kPageSize;
  static constexpr std::uint64_t kPeerRecords = kWindowRecords + kPageSize;  ///< a peer each, then staging
  static constexpr std::uint64_t kSlotRecords = kPeerRecords + kPageSize;
  static constexpr std::uint64_t kSources = kSlotRecords + kMaxSlots * kSlotRecordBytes;
  static constexpr std::uint64_t kArchive = kSources + kMaxInFlight * kSlotBytes;
  static constexpr std::uint64_t kBytes = kArchive + kArchiveEntries * kSlotBytes;
};
static_assert(DeviceArea::kCompletion % kPageSize == 0 && DeviceArea::kArchiveRecords % kPageSize == 0);
static_assert(kRingEntries * sizeof(accelerator::CompletionRecord) <= kPageSize);
static_assert(kArchiveEntries * kArchiveRecordBytes <= kPageSize &&
              kWindowPages * kSlotRecordBytes <= kPageSize &&
              (kMaxDevices + 1) * kPeerRecordBytes <= kPageSize);
static_assert(accelerator::kWindowMappableOffset <= kWindowPages * kPageSize, "peers reach what is mapped");

/// How the synthetic guest uses its RAM: page 0 is the IOMMU's command ring, if there is one, then a driver
/// area for each device, the table with the generation of every page of the working set (u32 each), and the
/// working set, which may lie on both sides of the hole.
struct Layout {
  std::uint64_t ram_size = 0;
  std::uint32_t devices = 0;
  std::uint64_t table = 0;  ///< offset in RAM
  std::uint64_t working_set = 0;
  std::uint64_t working_set_pages = 0;

  /// `working_set_bytes` of 0: three quarters of what is left.  Fails if it does not fit, and says what
  /// would.
  static Result<Layout> plan(std::uint64_t ram_size, std::uint32_t devices, std::uint64_t working_set_bytes);

  static constexpr Gpa iommu_ring() { return Gpa{0}; }
  Gpa device_area(std::uint32_t index) const { return gpa(kPageSize + index * DeviceArea::kBytes); }
  Gpa table_entry(std::uint64_t page) const { return gpa(table + page * sizeof(std::uint32_t)); }
  Gpa page(std::uint64_t index) const { return gpa(working_set + index * kPageSize); }

 private:
  static Gpa gpa(std::uint64_t ram_offset) {
    return Gpa{ram_offset < GuestMemory::kHoleStart
                   ? ram_offset
                   : ram_offset - GuestMemory::kHoleStart + GuestMemory::kHoleEnd};
  }
};

}  // namespace handover::vmm::synthetic
