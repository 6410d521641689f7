#include <unistd.h>

#include <cerrno>

#include "vfio_kernel/device_node.h"
#include "vfio_kernel/dma_space.h"
#include "vfio_kernel/ioctl.h"
#include "vfio_kernel/refusals.h"

namespace handover::vfio_kernel {
namespace {

class IommufdSpace final : public DmaSpace {
 public:
  IommufdSpace(UniqueFd fd, std::uint32_t ioas) : fd_(std::move(fd)), ioas_(ioas) {}
  ~IommufdSpace() override {
    // The iommufd may be somebody else's as well, who goes on: nothing of ours stays mapped in it.
    uapi::IoasUnmap everything{sizeof(uapi::IoasUnmap), ioas_, 0, ~std::uint64_t{0}};
    (void)call(fd_.get(), uapi::kIoasUnmap, &everything);
  }
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

}  // namespace

bool has_cdev_path(const DevicePlace& place) {
  return place.cdev && ::access("/dev/iommu", F_OK) == 0;
}

Result<OpenedDevice> open_by_cdev(const DevicePlace& place, const Inherited* inherited) {
  if (!place.cdev)
    return fail(Errc::unsupported,
                "the kernel has no character device for it (Linux 6.6 with VFIO_DEVICE_CDEV)");
  OpenedDevice opened;
  UniqueFd iommufd;
  if (inherited) {
    HANDOVER_ASSIGN(opened.device, inherited->device());
    HANDOVER_ASSIGN(iommufd, inherited->iommufd());
  } else {
    HANDOVER_ASSIGN(opened.device, open_node("/dev/vfio/devices/" + *place.cdev));
  }
  if (!iommufd) {
    HANDOVER_ASSIGN(iommufd, open_node("/dev/iommu"));
  }
  uapi::BindIommufd bind{sizeof(uapi::BindIommufd), 0, iommufd.get(), 0};
  if (auto bound = call(opened.device.get(), uapi::kDeviceBindIommufd, &bind); !bound)
    return explain_bind(place, std::move(bound).error(), inherited != nullptr);
  uapi::IoasAlloc ioas{sizeof(uapi::IoasAlloc), 0, 0};
  HANDOVER_TRY_CONTEXT(call(iommufd.get(), uapi::kIoasAlloc, &ioas), "making an address space");
  uapi::AttachIommufdPt attach{sizeof(uapi::AttachIommufdPt), 0, ioas.out_ioas_id};
  HANDOVER_TRY_CONTEXT(call(opened.device.get(), uapi::kDeviceAttachIommufdPt, &attach),
                       "attaching {} to its address space", *place.cdev);
  opened.space = std::make_unique<IommufdSpace>(std::move(iommufd), ioas.out_ioas_id);
  return opened;
}

}  // namespace handover::vfio_kernel
