#include "vfio_kernel/dma_space.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>

#include "vfio_kernel/ioctl.h"

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

class IommufdSpace final : public DmaSpace {
 public:
  IommufdSpace(UniqueFd fd, std::uint32_t ioas) : fd_(std::move(fd)), ioas_(ioas) {}
  std::string name() const override { return "iommufd"; }
  Status map(const vfio::DmaMapping& mapping) override {
    uapi::IoasMap request{};
    request.size = sizeof request;
    request.flags = uapi::kIoasMapFixedIova | (mapping.flags & vfio::kDmaRead ? uapi::kIoasMapReadable : 0) |
                    (mapping.flags & vfio::kDmaWrite ? uapi::kIoasMapWriteable : 0);
    request.ioas_id = ioas_;
    request.user_va = reinterpret_cast<std::uintptr_t>(mapping.host);
    request.length = mapping.size;
    request.iova = mapping.iova.value;
    if (auto mapped = call(fd_.get(), uapi::kIoasMap, &request); !mapped)
      return explain_map_failure(mapping, std::move(mapped).error());
    return {};
  }
  Status unmap(const vfio::IovaRange& range) override {
    uapi::IoasUnmap request{sizeof(uapi::IoasUnmap), ioas_, range.start.value, range.size};
    auto unmapped = call(fd_.get(), uapi::kIoasUnmap, &request);
    // ENOENT: nothing is mapped there.
    if (!unmapped && unmapped.error().sys_errno() != ENOENT)
      return std::unexpected(std::move(unmapped).error().with_context(
          fmt::format("unmapping [{:#x}, +{:#x})", range.start.value, range.size)));
    return {};
  }

 private:
  UniqueFd fd_;
  std::uint32_t ioas_;
};

Result<UniqueFd> open_node(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return fd;
  switch (const int err = errno) {
    case EACCES:
    case EPERM:
      return fail_errno(
          err, "no permission for {}; give it to the user that runs this (chown, or a udev rule)", path);
    case EBUSY:
      return fail_errno(err, "{} is in use by another process", path);
    case ENOENT:
      return fail_errno(err, "there is no {}; is the vfio module loaded?", path);
    default:
      return fail_errno(err, "cannot open {}", path);
  }
}

Status check_viable(int group, const DevicePlace& place) {
  uapi::GroupStatus status{sizeof(uapi::GroupStatus), 0};
  HANDOVER_TRY_CONTEXT(call(group, uapi::kGroupGetStatus, &status), "asking group {}", *place.group);
  if (status.flags & uapi::kGroupViable) return {};
  std::string others;
  for (const auto& other : others_in_group(place))
    others += fmt::format("{}{} (driver {})", others.empty() ? "" : ", ", other.name,
                          other.driver.value_or("none"));
  return fail(
      Errc::state,
      "its IOMMU group {} is not viable: all its devices must have VFIO drivers or none; the others are {}",
      *place.group, others);
}

}  // namespace

std::unexpected<Error> explain_map_failure(const vfio::DmaMapping& mapping, Error error) {
  const int err = error.sys_errno();
  auto text = fmt::format("mapping [{:#x}, +{:#x}) for DMA", mapping.iova.value, mapping.size);
  rlimit limit{};
  if (err == ENOMEM && ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    text += fmt::format(" (memory that a device reaches is locked; the limit is {} KiB, raise it: ulimit -l)",
                        limit.rlim_cur / 1024);
  return std::unexpected(std::move(error).with_context(std::move(text)));
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
  HANDOVER_ASSIGN(opened.group, open_node("/dev/vfio/" + *place.group));
  HANDOVER_TRY(check_viable(opened.group.get(), place));
  int container_fd = container.get();
  HANDOVER_TRY_CONTEXT(call(opened.group.get(), uapi::kGroupSetContainer, &container_fd),
                       "putting group {} into a container", *place.group);
  HANDOVER_TRY_CONTEXT(call(container.get(), uapi::kSetIommu, static_cast<unsigned long>(uapi::kType1v2)),
                       "choosing the type of the container");
  // The name goes as a C string.
  auto name = place.name;
  HANDOVER_ASSIGN_CONTEXT(const auto device, call(opened.group.get(), uapi::kGroupGetDeviceFd, name.data()),
                          "getting `{}` from group {}", place.name, *place.group);
  opened.device.reset(device);
  opened.space = std::make_unique<Type1Container>(std::move(container));
  return opened;
}

bool has_cdev_path(const DevicePlace& place) {
  return place.cdev && ::access("/dev/iommu", F_OK) == 0;
}

Result<OpenedDevice> open_by_cdev(const DevicePlace& place) {
  if (!place.cdev)
    return fail(Errc::unsupported,
                "the kernel has no character device for it (Linux 6.6 with VFIO_DEVICE_CDEV)");
  OpenedDevice opened;
  HANDOVER_ASSIGN(opened.device, open_node("/dev/vfio/devices/" + *place.cdev));
  HANDOVER_ASSIGN(auto iommufd, open_node("/dev/iommu"));
  uapi::BindIommufd bind{sizeof(uapi::BindIommufd), 0, iommufd.get(), 0};
  if (auto bound = call(opened.device.get(), uapi::kDeviceBindIommufd, &bind); !bound) {
    // EINVAL is also the kernel's word for a device that somebody else has bound.
    const auto why = bound.error().sys_errno() == EBUSY    ? " (its group is in use by the other path)"
                     : bound.error().sys_errno() == EINVAL ? " (is it in use by another process?)"
                                                           : "";
    return std::unexpected(
        std::move(bound).error().with_context(fmt::format("binding {} to iommufd{}", *place.cdev, why)));
  }
  uapi::IoasAlloc ioas{sizeof(uapi::IoasAlloc), 0, 0};
  HANDOVER_TRY_CONTEXT(call(iommufd.get(), uapi::kIoasAlloc, &ioas), "making an address space");
  uapi::AttachIommufdPt attach{sizeof(uapi::AttachIommufdPt), 0, ioas.out_ioas_id};
  HANDOVER_TRY_CONTEXT(call(opened.device.get(), uapi::kDeviceAttachIommufdPt, &attach),
                       "attaching {} to its address space", *place.cdev);
  opened.space = std::make_unique<IommufdSpace>(std::move(iommufd), ioas.out_ioas_id);
  return opened;
}

}  // namespace handover::vfio_kernel
