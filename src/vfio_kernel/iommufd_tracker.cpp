#include "vfio_kernel/iommufd_tracker.h"

#include "vfio_kernel/ioctl.h"

namespace handover::vfio_kernel {

// Turning on clears all bits first.
Status IommufdTracker::set(bool on) {
  uapi::HwptSetDirtyTracking request{sizeof request, on ? uapi::kDirtyTrackingEnable : 0, table_, 0};
  HANDOVER_TRY(call(fd_, uapi::kHwptSetDirtyTracking, &request));
  return {};
}

Status IommufdTracker::get(const vfio::IovaRange& run, Words words, std::uint32_t flags) {
  uapi::HwptGetDirtyBitmap request{};
  request.size = sizeof request;
  request.hwpt_id = table_;
  request.flags = flags;
  request.iova = run.start.value;
  request.length = run.size;
  request.page_size = page_size();
  request.data = reinterpret_cast<std::uintptr_t>(words.data());
  HANDOVER_TRY(call(fd_, uapi::kHwptGetDirtyBitmap, &request));
  return {};
}

Result<bool> IommufdTracker::take_and_read(const vfio::IovaRange& mapping, Words words) {
  const bool known = get(mapping, words, uapi::kGetDirtyBitmapNoClear).has_value();
  HANDOVER_TRY(space().take_away(mapping));
  return known;
}

}  // namespace handover::vfio_kernel
