#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "vfio_kernel/space_tracker.h"
#include "vfio_kernel/type1_container.h"

namespace handover::vfio_kernel {

/// How a container's dirty bits are asked for: one for each page, so many bytes at a time.
struct Type1Log {
  std::uint64_t page_size = 0;
  std::uint64_t most_bytes = 0;
  /// A device is in the container that has an IOMMU of the host's before it.  All that is mapped is pinned
  /// for it, so every page is reported every time.
  bool all_pinned = false;
};
/// What the kernel says of it, or the reason why it has no such bits.
std::expected<Type1Log, std::string> type1_log(int container);

/// Dirty tracking by a type1 container: VFIO_IOMMU_DIRTY_PAGES, and UNMAP_DMA with a bitmap.  (VFIO uAPI,
/// Linux 5.8.)
///
/// What the kernel knows are the pages that the drivers of mediated devices pin, or write by its help.  One
/// that is pinned is reported every time.
class Type1Tracker final : public SpaceTracker {
 public:
  /// `container` outlives it.
  Type1Tracker(Type1Container& container, const Type1Log& log);
  vfio::TrackerKind kind() const override { return vfio::TrackerKind::type1; }

 private:
  Status turn_on() override;
  Status turn_off() override;
  Status read(const vfio::IovaRange& run, Words words) override;
  Result<bool> take_and_read(const vfio::IovaRange& mapping, Words words) override;

  const int fd_;
};

}  // namespace handover::vfio_kernel
