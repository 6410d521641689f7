#include "vfio_kernel/device_node.h"
#include "vfio_kernel/dma_space.h"
#include "vfio_kernel/ioctl.h"
#include "vfio_kernel/refusals.h"

namespace handover::vfio_kernel {
namespace {

class Type1Container final : public DmaSpace {
 public:
  explicit Type1Container(UniqueFd fd) : fd_(std::move(fd)) {}
  int fd() const { return fd_.get(); }
  std::string name() const override { return "type1 container"; }
  Status map(const vfio::DmaMapping& mapping) override {
    uapi::IommuMap request{};
    request.argsz = sizeof request;
    request.flags = mapping.flags & (uapi::kDmaRead | uapi::kDmaWrite);
    request.vaddr = reinterpret_cast<std::uintptr_t>(mapping.host);
    request.iova = mapping.iova.value;
    request.size = mapping.size;
    if (auto mapped = call(fd_.get(), uapi::kIommuMapDma, &request); !mapped)
      return explain_map_failure(mapping, std::move(mapped).error());
    return {};
  }
  Status unmap(const vfio::IovaRange& range) override {
    uapi::IommuUnmap request{sizeof(uapi::IommuUnmap), 0, range.start.value, range.size};
    HANDOVER_TRY_CONTEXT(call(fd_.get(), uapi::kIommuUnmapDma, &request), "unmapping [{:#x}, +{:#x})",
                         range.start.value, range.size);
    return {};
  }

 private:
  UniqueFd fd_;
};

Status check_viable(int group, const DevicePlace& place) {
  uapi::GroupStatus status{sizeof(uapi::GroupStatus), 0};
  HANDOVER_TRY_CONTEXT(call(group, uapi::kGroupGetStatus, &status), "asking group {}", *place.group);
  if (status.flags & uapi::kGroupViable) return {};
  return explain_not_viable(place);
}

}  // namespace

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
