#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "devices/accelerator/memory_claims.h"
#include "handover/base/result.h"
#include "handover/base/units.h"
#include "handover/memory/dirty_bitmap.h"

namespace handover::accelerator {

inline constexpr std::uint64_t kMinMemory = 1 * MiB;
inline constexpr std::uint64_t kMaxMemory = 16 * GiB;
/// Granularity of the map of what was ever written.
inline constexpr std::uint64_t kChunkSize = 64 * KiB;
inline constexpr std::uint64_t kPagesPerChunk = kChunkSize / kPageSize;

/// The accelerator's own memory and what is known about writes to it.
///
/// The engine's thread writes through Write; the loop reads through claims() in a saving session, and writes
/// with load() while the engine is held.  Memory of the host is used only for pages that were written.
/// Bitmaps: 32 KiB of dirty bits and 2 KiB of chunk bits per GiB.
class DeviceMemory {
 public:
  /// `size` is a multiple of kPageSize in [kMinMemory, kMaxMemory].
  static Result<std::unique_ptr<DeviceMemory>> create(std::uint64_t size);

  std::uint64_t size() const { return size_; }
  std::uint64_t pages() const { return size_ / kPageSize; }
  std::uint64_t chunks() const { return (size_ + kChunkSize - 1) / kChunkSize; }

  /// The range must lie inside the memory.
  std::span<const std::byte> view(std::uint64_t offset, std::uint64_t length) const {
    return {data_.get() + offset, length};
  }

  /// One write of the engine: claims the range, and logs it before the claim ends.
  class Write {
   public:
    Write(DeviceMemory& memory, std::uint64_t offset, std::uint64_t length);
    ~Write();
    Write(const Write&) = delete;
    Write& operator=(const Write&) = delete;
    std::span<std::byte> bytes() const { return bytes_; }

   private:
    DeviceMemory& memory_;
    PageRun pages_;
    std::span<std::byte> bytes_;
  };

  /// Loading: these chunks are about to be filled.  Lets the host use huge pages where whole ones are, which
  /// saves most of the cost of fresh memory; until the next clear().
  void expect(std::uint64_t first_chunk, std::uint64_t count);
  /// Loading: the bytes of a page range, which counts as written from now on.
  std::span<std::byte> load(PageRun pages);
  /// Loading: makes a page range read as zero.
  void load_zero(PageRun pages);

  MemoryClaims& claims() { return claims_; }
  /// Pages written since they were last taken.
  DirtyBitmap& dirty() { return dirty_; }
  const DirtyBitmap& dirty() const { return dirty_; }
  /// Chunks written since power-on: all others read as zero.
  DirtyBitmap& written() { return written_; }
  const DirtyBitmap& written() const { return written_; }
  /// Makes every page that can hold anything dirty.
  void mark_all_written_dirty();

  /// Power-on state; gives the host's memory back.  Takes long for much memory.
  Status clear();

 private:
  struct Unmap {
    std::uint64_t size = 0;
    void operator()(std::byte* data) const;
  };
  DeviceMemory(std::byte* data, std::uint64_t size);
  void log(PageRun pages);

  std::uint64_t size_;
  std::unique_ptr<std::byte, Unmap> data_;
  MemoryClaims claims_;
  DirtyBitmap dirty_;
  DirtyBitmap written_;
};

}  // namespace handover::accelerator
