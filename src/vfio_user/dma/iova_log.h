#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>
#include <span>

namespace handover::vfio_user {

/// Which addresses a device wrote, one bit for each page of 4 KiB, over the whole 64-bit address space.
///
/// Keyed by address and not by mapping, so that the bits of a range that was unmapped stay until they are
/// taken, and a take may span any part of any mappings.  Any thread may mark and take.  A writer marks after
/// it has written; take() reads and clears each word in one atomic step, so that a mark is in this
/// take or in the next.
///
/// Memory: 4 KiB for each 128 MiB that were touched.  Beyond kMaxChunks of them (8 TiB) the log gives up
/// detail and calls everything written until it is cleared.
class IovaLog {
 public:
  static constexpr std::uint64_t kLogPage = 4096;
  static constexpr std::size_t kMaxChunks = 65536;

  /// The range must not wrap.  Nothing is marked for size 0.
  void mark(std::uint64_t start, std::uint64_t size);
  /// Sets bit i of `bitmap` for each page `start + i * page_size` of [start, start + size) with a mark, and
  /// clears those marks; the page size is any power of two, the bitmap is long enough
  /// (protocol::bitmap_bytes). Marks of log pages that the range covers only in part are reported and stay.
  void take(std::uint64_t start, std::uint64_t size, std::uint64_t page_size, std::span<std::byte> bitmap);
  /// Marks what a foreign bitmap of the range says; `bitmap` as for take().
  void absorb(std::uint64_t start, std::uint64_t size, std::uint64_t page_size,
              std::span<const std::byte> bitmap);
  /// True if the range may have marks.
  bool touched(std::uint64_t start, std::uint64_t size) const;
  /// Forgets the marks of the log pages that lie completely in [first, last].
  void forget(std::uint64_t first, std::uint64_t last);
  void clear();

 private:
  static constexpr std::uint64_t kChunkPages = 32768;
  static constexpr std::uint64_t kChunkBytes = kChunkPages * kLogPage;
  static constexpr std::size_t kChunkWords = kChunkPages / 64;
  struct Chunk {
    std::atomic<std::uint64_t> words[kChunkWords] = {};
  };

  Chunk* find_or_make(std::uint64_t key);

  // A leaf: protects the map, not the words.  Shared to mark and take, exclusive to add chunks and clear.
  mutable std::shared_mutex mutex_;
  std::map<std::uint64_t, std::unique_ptr<Chunk>> chunks_;
  std::atomic<bool> saturated_{false};
};

}  // namespace handover::vfio_user
