#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "handover/vfio/dma_tracker.h"
#include "vfio_kernel/dma_space.h"

namespace handover::vfio_kernel {

/// What trackers of an address space of the kernel's have in common: they track all of it at once, know it
/// in whole mappings, and are the ones who unmap while writes are tracked.
///
/// Bits are read run by run into memory that is there and zeroed: the kernel ORs, and does not say so if it
/// cannot write.
class SpaceTracker : public vfio::DmaTracker {
 public:
  Status start(std::span<const vfio::IovaRange> reach, std::span<const vfio::IovaRange> mapped) final;
  void stop() final;
  bool covers(const vfio::IovaRange&) const final { return on_; }
  Status report(const vfio::IovaRange& range, const vfio::DirtyReportSink& to) final;
  void change(std::span<vfio::DmaChange> changes, const vfio::DirtyReportSink& dirt) final;

 protected:
  /// Most pages that bits are asked for at a time, but for a mapping that has more: 1 MiB of bits.
  static constexpr std::uint64_t kMostPages = std::uint64_t{8} << 20;
  using Words = std::span<std::uint64_t>;

  /// `space` outlives it; `page_size` is a power of two.
  SpaceTracker(DmaSpace& space, std::uint64_t page_size, std::uint64_t most_pages = kMostPages)
      : space_(space), page_size_(page_size), most_pages_(most_pages) {}
  DmaSpace& space() { return space_; }
  std::uint64_t page_size() const { return page_size_; }

 private:
  // All of it under the space's lock; bit i of `words` is page i of the range.

  virtual Status turn_on() = 0;
  virtual Status turn_off() = 0;
  /// Reads the bits of mappings that have no gap between them, and clears them at their source.
  virtual Status read(const vfio::IovaRange& run, Words words) = 0;
  /// Takes one mapping away.  True: `words` are what was written there since the last read(); false: nobody
  /// knows.  A failure: it is still mapped.
  virtual Result<bool> take_and_read(const vfio::IovaRange& mapping, Words words) = 0;

  Status unmap(const vfio::IovaRange& range, const vfio::DirtyReportSink& dirt);
  std::size_t words_for(const vfio::IovaRange& range) const;

  DmaSpace& space_;
  const std::uint64_t page_size_;
  const std::uint64_t most_pages_;
  std::atomic<bool> on_ = false;  // changed under the space's lock
};

}  // namespace handover::vfio_kernel
