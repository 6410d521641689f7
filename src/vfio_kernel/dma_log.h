#pragma once

#include "handover/vfio/device.h"
#include "vfio_kernel/loss.h"

namespace handover::vfio_kernel {

/// A device's own log of its DMA, by features 6 to 8.  (VFIO uAPI, Linux 6.12: DMA_LOGGING_START, STOP,
/// REPORT.)
class KernelDmaLog final : public vfio::DmaLog {
 public:
  KernelDmaLog(int device, const Loss& loss) : device_(device), loss_(loss) {}
  static bool there(int device);

  Status start(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges) override;
  Result<std::vector<std::byte>> report(const vfio::IovaRange& range) override;
  Status stop() override;
  std::uint64_t page_size() const override { return page_size_; }

 private:
  const int device_;
  const Loss& loss_;
  std::uint64_t page_size_ = kPageSize;
};

}  // namespace handover::vfio_kernel
