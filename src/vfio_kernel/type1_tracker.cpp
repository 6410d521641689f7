#include "vfio_kernel/type1_tracker.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

#include "vfio_kernel/ioctl.h"

namespace handover::vfio_kernel {
namespace {

uapi::DirtyBitmap bitmap_of(std::span<std::uint64_t> words, std::uint64_t page_size) {
  return {page_size, words.size_bytes(), reinterpret_cast<std::uintptr_t>(words.data())};
}

}  // namespace

std::expected<Type1Log, std::string> type1_log(int container) {
  uapi::IommuInfo info{};
  const auto answer = ask_with_chain(container, uapi::kIommuGetInfo, std::as_bytes(std::span(&info, 1)));
  if (!answer)
    return std::unexpected("the type1 container does not say what it can: " + answer.error().to_string());
  std::memcpy(&info, answer->data(), sizeof info);
  const auto first = (info.flags & uapi::kIommuInfoCaps) != 0 ? info.cap_offset : 0;
  const auto found = find_capability(*answer, first, uapi::kCapMigration);
  uapi::CapMigration capability;
  if (found.size() < sizeof capability)
    return std::unexpected("the type1 container has no dirty tracking (iommufd in its place has none)");
  std::memcpy(&capability, found.data(), sizeof capability);
  if (!std::has_single_bit(capability.pgsize_bitmap))
    return std::unexpected(fmt::format("the type1 container tracks pages of the sizes {:#x}, and not of one",
                                       capability.pgsize_bitmap));
  // Where devices are all mediated, every address may be mapped, and nothing is said of ranges.
  const bool all_pinned = !find_capability(*answer, first, uapi::kCapIovaRange).empty();
  return Type1Log{capability.pgsize_bitmap, capability.max_dirty_bitmap_size, all_pinned};
}

Type1Tracker::Type1Tracker(Type1Container& container, const Type1Log& log)
    : SpaceTracker(container, log.page_size, std::min(log.most_bytes, kMostPages / 8) * 8),
      fd_(container.fd()) {
}

Status Type1Tracker::turn_on() {
  uapi::DirtyPages request{sizeof request, uapi::kDirtyPagesStart};
  HANDOVER_TRY(call(fd_, uapi::kIommuDirtyPages, &request));
  return {};
}

Status Type1Tracker::turn_off() {
  uapi::DirtyPages request{sizeof request, uapi::kDirtyPagesStop};
  HANDOVER_TRY(call(fd_, uapi::kIommuDirtyPages, &request));
  return {};
}

Status Type1Tracker::read(const vfio::IovaRange& run, Words words) {
  uapi::DirtyPagesGet request{.head = {sizeof request, uapi::kDirtyPagesGetBitmap},
                              .iova = run.start.value,
                              .size = run.size,
                              .bitmap = bitmap_of(words, page_size())};
  HANDOVER_TRY(call(fd_, uapi::kIommuDirtyPages, &request));
  return {};
}

Result<bool> Type1Tracker::take_and_read(const vfio::IovaRange& mapping, Words words) {
  uapi::IommuUnmapDirty request{
      .head = {sizeof request, uapi::kUnmapGetDirtyBitmap, mapping.start.value, mapping.size},
      .bitmap = bitmap_of(words, page_size())};
  if (call(fd_, uapi::kIommuUnmapDma, &request)) return true;
  // Who cannot tell what was written can still unmap.
  HANDOVER_TRY(space().take_away(mapping));
  return false;
}

}  // namespace handover::vfio_kernel
