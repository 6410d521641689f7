#include "vfio_kernel/iommufd_space.h"

#include <unistd.h>

#include <cerrno>
#include <memory>

#include "vfio_kernel/device_node.h"
#include "vfio_kernel/ioctl.h"
#include "vfio_kernel/iommufd_tracker.h"
#include "vfio_kernel/refusals.h"

namespace handover::vfio_kernel {
namespace {

// Of memory that nothing uses; the descriptor's end frees it as well.
void destroy(int iommufd, std::uint32_t id) {
  uapi::IommufdDestroy request{sizeof request, id};
  (void)call(iommufd, uapi::kIommufdDestroy, &request);
}

Status attach(int device, std::uint32_t page_table) {
  uapi::AttachIommufdPt request{sizeof request, 0, page_table};
  HANDOVER_TRY(call(device, uapi::kDeviceAttachIommufdPt, &request));
  return {};
}

}  // namespace

DirtyTable make_dirty_table(int iommufd, std::uint32_t device, std::uint32_t ioas) {
  uapi::HwInfo info{};
  info.size = sizeof info;
  info.dev_id = device;
  if (const auto asked = call(iommufd, uapi::kGetHwInfo, &info); !asked) {
    if (asked.error().sys_errno() == ENOENT)
      return {std::nullopt, "its driver emulates the IOMMU, which has no dirty bits"};
    return {std::nullopt,
            "iommufd does not say whether the host's IOMMU has dirty bits: " + asked.error().to_string()};
  }
  if ((info.out_capabilities & uapi::kHwCapDirtyTracking) == 0)
    return {std::nullopt, "the host's IOMMU has no dirty bits"};
  uapi::HwptAlloc table{sizeof table, uapi::kHwptAllocDirtyTracking, device, ioas, 0, 0};
  if (const auto made = call(iommufd, uapi::kHwptAlloc, &table); !made)
    return {std::nullopt,
            "the host's IOMMU makes no page table with dirty bits: " + made.error().to_string()};
  return {table.out_hwpt_id};
}

IommufdSpace::~IommufdSpace() {
  uapi::IoasUnmap everything{sizeof(uapi::IoasUnmap), ioas_, 0, ~std::uint64_t{0}};
  (void)call(fd(), uapi::kIoasUnmap, &everything);  // ENOENT: there was nothing
  if (table_.id) destroy(fd(), *table_.id);
  destroy(fd(), ioas_);
}

Status IommufdSpace::add(const vfio::DmaMapping& mapping) {
  uapi::IoasMap request{};
  request.size = sizeof request;
  request.flags = uapi::kIoasMapFixedIova | (mapping.flags & vfio::kDmaRead ? uapi::kIoasMapReadable : 0) |
                  (mapping.flags & vfio::kDmaWrite ? uapi::kIoasMapWriteable : 0);
  request.ioas_id = ioas_;
  request.user_va = reinterpret_cast<std::uintptr_t>(mapping.host);
  request.length = mapping.size;
  request.iova = mapping.iova.value;
  if (auto mapped = call(fd(), uapi::kIoasMap, &request); !mapped)
    return explain_map_failure(mapping, std::move(mapped).error());
  return {};
}

Status IommufdSpace::take_away(const vfio::IovaRange& mapping) {
  uapi::IoasUnmap request{sizeof(uapi::IoasUnmap), ioas_, mapping.start.value, mapping.size};
  HANDOVER_TRY(call(fd(), uapi::kIoasUnmap, &request));
  return {};
}

std::vector<vfio::TrackerOffer> IommufdSpace::offers() {
  std::vector<vfio::TrackerOffer> offers;
  if (table_.id)
    offers.push_back({vfio::TrackerKind::iommufd, std::make_unique<IommufdTracker>(*this, *table_.id), {}});
  else
    offers.push_back({vfio::TrackerKind::iommufd, nullptr, table_.why_not});
  offers.push_back({vfio::TrackerKind::type1, nullptr, "no type1 container is in use"});
  return offers;
}

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
  auto table = make_dirty_table(iommufd.get(), bind.out_devid, ioas.out_ioas_id);
  if (table.id) {
    if (const auto attached = attach(opened.device.get(), *table.id); !attached) {
      destroy(iommufd.get(), *table.id);
      table = {std::nullopt,
               "it cannot be attached to a page table with dirty bits: " + attached.error().to_string()};
    }
  }
  if (!table.id)
    HANDOVER_TRY_CONTEXT(attach(opened.device.get(), ioas.out_ioas_id), "attaching {} to its address space",
                         *place.cdev);
  opened.space = std::make_unique<IommufdSpace>(std::move(iommufd), ioas.out_ioas_id, std::move(table));
  return opened;
}

}  // namespace handover::vfio_kernel
