#pragma once

#include <cstdint>
#include <vector>

#include "handover/base/result.h"
#include "handover/memory/dirty_source.h"
#include "handover/vfio/device.h"

namespace handover::vfio {

/// What of guest memory the addresses of a device stand for.  Any thread.
class DmaView {
 public:
  virtual ~DmaView() = default;
  /// Everything that the device can ever be given.
  virtual std::vector<IovaRange> reach() const = 0;
  /// Ranges, ascending and apart, that cover all that the device may write to now; they may be coarser.
  virtual std::vector<IovaRange> mapped() const = 0;
  /// Between the two, what is unmapped counts as mapped for mark(): a report that is asked for now may be of
  /// a mapping that is gone when it comes.
  virtual void hold() {}
  virtual void release() {}
  /// Marks the guest memory that the report's bits stand for; returns how many pages were new.
  virtual Result<std::uint64_t> mark(const DirtyReport& report, DirtyMemory& to) const = 0;
};

/// Without an IOMMU for the guest a device sees RAM where the CPUs see it.
class PhysicalView final : public DmaView {
 public:
  /// `memory` outlives the view; its layout does not change.
  explicit PhysicalView(const GuestMemory& memory) : memory_(memory) {}
  std::vector<IovaRange> reach() const override { return mapped(); }
  std::vector<IovaRange> mapped() const override;
  Result<std::uint64_t> mark(const DirtyReport& report, DirtyMemory& to) const override;

 private:
  const GuestMemory& memory_;
};

}  // namespace handover::vfio
