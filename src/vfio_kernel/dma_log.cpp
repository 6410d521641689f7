#include "vfio_kernel/dma_log.h"

#include <bit>
#include <cstring>

#include "vfio_kernel/ioctl.h"

namespace handover::vfio_kernel {

bool KernelDmaLog::there(int device) {
  return has_feature(device, uapi::kFeatureDmaLoggingStart, uapi::kFeatureSet) &&
         has_feature(device, uapi::kFeatureDmaLoggingStop, uapi::kFeatureSet) &&
         has_feature(device, uapi::kFeatureDmaLoggingReport, uapi::kFeatureGet);
}

Status KernelDmaLog::start(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges) {
  HANDOVER_TRY(loss_.check());
  std::vector<uapi::DmaLoggingRange> list;
  for (const auto& range : ranges)
    list.push_back({range.start.value, range.size});
  uapi::DmaLoggingStart request{page_size, static_cast<std::uint32_t>(list.size()), 0,
                                reinterpret_cast<std::uintptr_t>(list.data())};
  HANDOVER_TRY_CONTEXT(device_feature(device_, uapi::kFeatureSet | uapi::kFeatureDmaLoggingStart, request),
                       "cannot start the DMA log of {} ranges", list.size());
  if (!std::has_single_bit(request.page_size))
    return fail(Errc::device, "the DMA log has pages of {} bytes", request.page_size);
  page_size_ = std::max(request.page_size, kPageSize);
  return {};
}

Result<std::vector<std::byte>> KernelDmaLog::report(const vfio::IovaRange& range) {
  HANDOVER_TRY(loss_.check());
  // The kernel ORs into whole words, and does not say so if it cannot: the memory is there and written
  // before.
  std::vector<std::uint64_t> words((range.size - 1) / page_size_ / 64 + 1);
  uapi::DmaLoggingReport request{range.start.value, range.size, page_size_,
                                 reinterpret_cast<std::uintptr_t>(words.data())};
  HANDOVER_TRY_CONTEXT(device_feature(device_, uapi::kFeatureGet | uapi::kFeatureDmaLoggingReport, request),
                       "cannot read the DMA log of [{:#x}, +{:#x})", range.start.value, range.size);
  std::vector<std::byte> bits(words.size() * sizeof words[0]);
  std::memcpy(bits.data(), words.data(), bits.size());
  return bits;
}

Status KernelDmaLog::stop() {
  HANDOVER_TRY(loss_.check());
  uapi::Feature request{sizeof(uapi::Feature), uapi::kFeatureSet | uapi::kFeatureDmaLoggingStop};
  HANDOVER_TRY_CONTEXT(call(device_, uapi::kDeviceFeature, &request), "cannot stop the DMA log");
  return {};
}

}  // namespace handover::vfio_kernel
