#include "vfio_kernel/type1_container.h"

#include <cstdint>
#include <memory>

#include "vfio_kernel/device_node.h"
#include "vfio_kernel/ioctl.h"
#include "vfio_kernel/refusals.h"
#include "vfio_kernel/type1_tracker.h"

namespace handover::vfio_kernel {
namespace {

Status check_viable(int group, const DevicePlace& place) {
  uapi::GroupStatus status{sizeof(uapi::GroupStatus), 0};
  HANDOVER_TRY_CONTEXT(call(group, uapi::kGroupGetStatus, &status), "asking group {}", *place.group);
  if (status.flags & uapi::kGroupViable) return {};
  return explain_not_viable(place);
}

}  // namespace

Status Type1Container::add(const vfio::DmaMapping& mapping) {
  uapi::IommuMap request{};
  request.argsz = sizeof request;
  request.flags = mapping.flags & (uapi::kDmaRead | uapi::kDmaWrite);
  request.vaddr = reinterpret_cast<std::uintptr_t>(mapping.host);
  request.iova = mapping.iova.value;
  request.size = mapping.size;
  if (auto mapped = call(fd(), uapi::kIommuMapDma, &request); !mapped)
    return explain_map_failure(mapping, std::move(mapped).error());
  return {};
}

Status Type1Container::take_away(const vfio::IovaRange& mapping) {
  uapi::IommuUnmap request{sizeof(uapi::IommuUnmap), 0, mapping.start.value, mapping.size};
  HANDOVER_TRY(call(fd(), uapi::kIommuUnmapDma, &request));
  return {};
}

std::vector<vfio::TrackerOffer> Type1Container::offers() {
  std::vector<vfio::TrackerOffer> offers;
  offers.push_back({vfio::TrackerKind::iommufd, nullptr, "iommufd is not in use"});
  const auto log = type1_log(fd());
  if (!log)
    offers.push_back({vfio::TrackerKind::type1, nullptr, log.error()});
  else if (log->all_pinned)
    offers.push_back({vfio::TrackerKind::type1, nullptr,
                      "a type1 container knows only of pages that a driver pins one by one, and behind the "
                      "host's IOMMU all that is mapped is pinned: it would report every page, always"});
  else
    offers.push_back({vfio::TrackerKind::type1, std::make_unique<Type1Tracker>(*this, *log), {}});
  return offers;
}

Result<OpenedDevice> open_by_group(const DevicePlace& place) {
  if (!place.group)
    return fail(Errc::unsupported, "it has no IOMMU group, so there is no way to it by group and container");
  HANDOVER_ASSIGN(auto container, open_node("/dev/vfio/vfio"));
  HANDOVER_ASSIGN_CONTEXT(const auto version, call(container.get(), uapi::kGetApiVersion, 0ul),
                          "/dev/vfio/vfio");
  if (version != 0) return fail(Errc::unsupported, "/dev/vfio/vfio speaks version {}", version);
  HANDOVER_ASSIGN(const auto type1, call(container.get(), uapi::kCheckExtension,
                                         static_cast<unsigned long>(uapi::kExtensionType1v2)));
  if (type1 == 0)
    return fail(Errc::unsupported,
                "the kernel has no type1 v2 containers; is the module vfio_iommu_type1 loaded?");
  OpenedDevice opened;
  auto group = open_node("/dev/vfio/" + *place.group);
  if (!group) return explain_group_open(place, std::move(group).error());
  opened.group = std::move(*group);
  HANDOVER_TRY(check_viable(opened.group.get(), place));
  int container_fd = container.get();
  HANDOVER_TRY_CONTEXT(call(opened.group.get(), uapi::kGroupSetContainer, &container_fd),
                       "putting group {} into a container", *place.group);
  if (auto set = call(container.get(), uapi::kSetIommu, static_cast<unsigned long>(uapi::kType1v2)); !set)
    return explain_set_iommu(place, std::move(set).error());
  // The name goes as a C string.
  auto name = place.name;
  HANDOVER_ASSIGN_CONTEXT(const auto device, call(opened.group.get(), uapi::kGroupGetDeviceFd, name.data()),
                          "getting `{}` from group {}", place.name, *place.group);
  opened.device.reset(device);
  opened.space = std::make_unique<Type1Container>(std::move(container));
  return opened;
}

}  // namespace handover::vfio_kernel
