#include "vfio_kernel/kernel_device.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "handover/base/byte_order.h"
#include "handover/base/log.h"
#include "vfio_kernel/ioctl.h"

namespace handover::vfio_kernel {
namespace {

/// No device has more; a kernel that says so is not believed.
constexpr std::uint32_t kMostIndexes = 256;

template <class T>
std::optional<T> read_at(std::span<const std::byte> bytes, std::size_t offset) {
  if (!range_fits(offset, sizeof(T), bytes.size())) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// u32 count, u32 reserved, then count times {u64 offset, u64 size}, behind the capability's header.
std::vector<vfio::RegionArea> sparse_areas(std::span<const std::byte> capability) {
  std::vector<vfio::RegionArea> areas;
  const auto count = read_at<std::uint32_t>(capability, sizeof(uapi::CapabilityHeader));
  for (std::uint32_t i = 0; count && i < *count; ++i) {
    const auto at = sizeof(uapi::CapabilityHeader) + 8 + std::size_t{i} * 16;
    const auto offset = read_at<std::uint64_t>(capability, at);
    const auto size = read_at<std::uint64_t>(capability, at + 8);
    if (!offset || !size) break;
    areas.push_back({*offset, *size});
  }
  return areas;
}

std::string blocker_of(const DevicePlace& place) {
  return fmt::format(
      "its driver `{}` has no migration (a vendor's VFIO driver, as mlx5_vfio_pci or a mediated device's, "
      "would "
      "have it)",
      place.driver.value_or("?"));
}

}  // namespace

Result<std::unique_ptr<vfio::Device>> open_device(const KernelOptions& options) {
  auto device = KernelDevice::open(options);
  if (!device)
    return std::unexpected(std::move(device).error().with_context(fmt::format("device `{}`", options.id)));
  return std::unique_ptr<vfio::Device>(std::move(*device));
}

Result<std::unique_ptr<KernelDevice>> KernelDevice::open(const KernelOptions& options) {
  HANDOVER_ASSIGN(const auto inherited, Inherited::parse(options.where));
  if (inherited && options.path == Path::group)
    return fail(Errc::invalid_argument, "a descriptor that was left to us is no way by the group");
  HANDOVER_ASSIGN(const auto place, inherited ? inherited->find_device() : find_device(options.where));
  HANDOVER_TRY(explain_place(place));
  const bool by_cdev =
      inherited || options.path == Path::cdev || (options.path == Path::automatic && has_cdev_path(place));
  HANDOVER_ASSIGN(auto opened,
                  by_cdev ? open_by_cdev(place, inherited ? &*inherited : nullptr) : open_by_group(place));
  std::unique_ptr<KernelDevice> self(new KernelDevice(options.id, std::move(opened)));
  HANDOVER_TRY(self->read_info(place));
  if (!options.keep_state) HANDOVER_TRY(self->set_running());
  self->watch_removal();
  if (inherited) inherited->settle();
  return self;
}

Status KernelDevice::set_running() {
  if (!migration_) return {};
  HANDOVER_ASSIGN(const auto state, migration_->state());
  if (state == vfio::DeviceState::running || migration_->set_state(vfio::DeviceState::running)) return {};
  HANDOVER_TRY_CONTEXT(reset(), "it does not go from {} to running", vfio::to_string(state));
  return {};
}

Status KernelDevice::read_info(const DevicePlace& place) {
  const uapi::DeviceInfo question{};
  HANDOVER_ASSIGN_CONTEXT(const auto answer,
                          ask_with_chain(fd(), uapi::kDeviceGetInfo, std::as_bytes(std::span(&question, 1))),
                          "asking what it is");
  uapi::DeviceInfo info;
  std::memcpy(&info, answer.data(), sizeof info);
  if (info.num_regions > kMostIndexes || info.num_irqs > kMostIndexes)
    return fail(Errc::device, "the kernel says that it has {} regions and {} interrupts", info.num_regions,
                info.num_irqs);
  info_ = {info.flags, info.num_regions, info.num_irqs};
  for (std::uint32_t index = 0; index < info.num_regions; ++index) {
    HANDOVER_ASSIGN(auto region, read_region(index));
    regions_.push_back(std::move(region));
  }
  for (std::uint32_t index = 0; index < info.num_irqs; ++index) {
    uapi::IrqInfo irq{sizeof(uapi::IrqInfo), 0, index, 0};
    // The number of indexes is an upper bound; each may still be missing.
    if (!call(fd(), uapi::kDeviceGetIrqInfo, &irq)) irq.flags = irq.count = 0;
    irqs_.push_back({index, irq.flags, irq.count});
  }
  HANDOVER_ASSIGN(migration_, KernelMigration::probe(fd(), loss_));
  if (!migration_) blocker_ = blocker_of(place);
  if (KernelDmaLog::there(fd())) dma_log_.emplace(fd(), loss_);
  return {};
}

Result<vfio::RegionInfo> KernelDevice::read_region(std::uint32_t index) const {
  vfio::RegionInfo region;
  region.index = index;
  uapi::RegionInfo question{};
  question.index = index;
  auto answer = ask_with_chain(fd(), uapi::kDeviceGetRegionInfo, std::as_bytes(std::span(&question, 1)));
  if (!answer) {
    // A region that there is not, as VGA's.
    if (answer.error().sys_errno() == EINVAL) return region;
    return std::unexpected(
        std::move(answer).error().with_context(fmt::format("asking for region {}", index)));
  }
  uapi::RegionInfo info;
  std::memcpy(&info, answer->data(), sizeof info);
  region.flags = info.flags;
  region.size = info.size;
  region.offset = info.offset;
  if ((info.flags & vfio::kRegionCaps) == 0) return region;
  region.areas = sparse_areas(find_capability(*answer, info.cap_offset, uapi::kCapSparseMmap));
  std::erase_if(region.areas, [&](const vfio::RegionArea& area) {
    return area.size == 0 || !range_fits(area.offset, area.size, region.size);
  });
  const auto type = find_capability(*answer, info.cap_offset, uapi::kCapRegionType);
  const auto number = read_at<std::uint32_t>(type, sizeof(uapi::CapabilityHeader));
  const auto subtype = read_at<std::uint32_t>(type, sizeof(uapi::CapabilityHeader) + 4);
  if (number && subtype) region.type = vfio::RegionType{*number, *subtype};
  return region;
}

Status KernelDevice::check_access(std::uint32_t index, std::uint64_t offset, std::uint64_t size) const {
  HANDOVER_TRY(loss_.check());
  if (index < regions_.size() && range_fits(offset, size, regions_[index].size)) return {};
  return fail(Errc::invalid_argument, "device `{}`: [{:#x}, +{:#x}) is not in region {}", id_, offset, size,
              index);
}

Status KernelDevice::region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) {
  HANDOVER_TRY(check_access(index, offset, to.size()));
  for (std::size_t done = 0; done < to.size();) {
    const auto at = static_cast<off_t>(regions_[index].offset + offset + done);
    const auto got = ::pread(fd(), to.data() + done, to.size() - done, at);
    const int err = errno;
    if (got > 0)
      done += static_cast<std::size_t>(got);
    else if (got == 0)
      return fail(Errc::device, "device `{}`: region {} ends at {:#x}", id_, index, offset + done);
    else if (err != EINTR)
      return access_error("reading", index, err);
  }
  return {};
}

Status KernelDevice::region_write(std::uint32_t index, std::uint64_t offset,
                                  std::span<const std::byte> from) {
  HANDOVER_TRY(check_access(index, offset, from.size()));
  for (std::size_t done = 0; done < from.size();) {
    const auto at = static_cast<off_t>(regions_[index].offset + offset + done);
    const auto put = ::pwrite(fd(), from.data() + done, from.size() - done, at);
    const int err = errno;
    if (put > 0)
      done += static_cast<std::size_t>(put);
    else if (put == 0)
      return fail(Errc::device, "device `{}`: region {} ends at {:#x}", id_, index, offset + done);
    else if (err != EINTR)
      return access_error("writing", index, err);
  }
  return {};
}

std::unexpected<Error> KernelDevice::access_error(std::string_view doing, std::uint32_t index,
                                                  int err) const {
  std::string why = errno_text(err);
  if (err == ENODEV) why += " (the device is gone)";
  if (err == EIO && index < vfio::kRegionConfig && vfio::kRegionConfig < regions_.size()) {
    // Vendor, device, command.
    std::array<std::byte, 6> head{};
    const auto got =
        ::pread(fd(), head.data(), head.size(), static_cast<off_t>(regions_[vfio::kRegionConfig].offset));
    const bool answers =
        got == static_cast<ssize_t>(head.size()) && load_le<std::uint16_t>(head.data()) != 0xffff;
    constexpr std::uint16_t kMemoryOrPorts = 3;
    if (!answers)
      why += " (the device is gone from its bus)";
    else if ((load_le<std::uint16_t>(head.data() + 4) & kMemoryOrPorts) == 0)
      why += " (its BARs are switched off in its command register)";
  }
  return std::unexpected(
      Error(Errc::device, fmt::format("device `{}`: {} region {}: {}", id_, doing, index, why), err));
}

Result<Mapping> KernelDevice::map_area(std::uint32_t index, const vfio::RegionArea& area) {
  HANDOVER_TRY(check_access(index, area.offset, area.size));
  const auto& region = regions_[index];
  if ((region.flags & vfio::kRegionMmap) == 0)
    return fail(Errc::unsupported, "device `{}`: region {} cannot be mapped", id_, index);
  const int prot = (region.flags & vfio::kRegionRead ? PROT_READ : 0) |
                   (region.flags & vfio::kRegionWrite ? PROT_WRITE : 0);
  HANDOVER_ASSIGN_CONTEXT(auto mapping, Mapping::shared(fd(), region.offset + area.offset, area.size, prot),
                          "device `{}`: region {}", id_, index);
  return mapping;
}

Status KernelDevice::set_irqs(std::uint32_t flags, std::uint32_t index, std::span<const int> eventfds) {
  HANDOVER_TRY(loss_.check());
  std::vector<std::byte> bytes(sizeof(uapi::IrqSet) + eventfds.size_bytes());
  const uapi::IrqSet head{static_cast<std::uint32_t>(bytes.size()), flags | uapi::kIrqSetActionTrigger, index,
                          0, static_cast<std::uint32_t>(eventfds.size())};
  std::memcpy(bytes.data(), &head, sizeof head);
  if (!eventfds.empty()) std::memcpy(bytes.data() + sizeof head, eventfds.data(), eventfds.size_bytes());
  HANDOVER_TRY_CONTEXT(call(fd(), uapi::kDeviceSetIrqs, bytes.data()),
                       "device `{}`: setting up interrupts of index {}", id_, index);
  return {};
}

Status KernelDevice::set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) {
  if (index >= irqs_.size() || eventfds.size() > irqs_[index].count)
    return fail(Errc::invalid_argument, "device `{}` has no {} vectors of interrupt index {}", id_,
                eventfds.size(), index);
  if (index == vfio::kIrqReq && removal_)
    return fail(Errc::unsupported, "device `{}`: that the host wants it back is told by on_lost() alone",
                id_);
  if (eventfds.empty())
    return irqs_[index].count == 0 ? Status{} : set_irqs(uapi::kIrqSetDataNone, index, {});
  // -1 removes a vector, as with the kernel.
  return set_irqs(uapi::kIrqSetDataEventfd, index, eventfds);
}

void KernelDevice::watch_removal() {
  if (vfio::kIrqReq >= irqs_.size() || irqs_[vfio::kIrqReq].count == 0) return;
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fds[] = {event.get()};
  if (auto set = set_irqs(uapi::kIrqSetDataEventfd, vfio::kIrqReq, fds); !event || !set) {
    log::warn("device `{}`: nobody will be told when the host wants it back{}", id_,
              set ? "" : ": " + set.error().to_string());
    return;
  }
  removal_.emplace(std::move(event), [this] {
    auto reason = fmt::format(
        "device `{}`: the host asks for it back (its driver is being unbound, or it is being taken out), and "
        "waits "
        "until it is let go of",
        id_);
    log::warn("{}", reason);
    loss_.lose(reason);
  });
}

Status KernelDevice::dma_map(const vfio::DmaMapping& mapping) {
  HANDOVER_TRY(loss_.check());
  auto mapped = opened_.space->map(mapping);
  if (mapped || !mapping.peer) return mapped;
  // Not every IOMMU's interface takes another device's registers (iommufd does not): no DMA goes there then,
  // and the devices work all the same.
  log::warn("device `{}` does not reach the memory of another by DMA: {}", id_, mapped.error().to_string());
  return {};
}

Status KernelDevice::dma_unmap(const vfio::IovaRange& range) {
  HANDOVER_TRY(opened_.space->unmap(range));
  return loss_.check();
}

Status KernelDevice::unmask_irq(std::uint32_t index) {
  HANDOVER_TRY(loss_.check());
  uapi::IrqSet request{sizeof(uapi::IrqSet), uapi::kIrqSetDataNone | uapi::kIrqSetActionUnmask, index, 0, 1};
  HANDOVER_TRY_CONTEXT(call(fd(), uapi::kDeviceSetIrqs, &request),
                       "device `{}`: unmasking the interrupt of index {}", id_, index);
  return {};
}

Status KernelDevice::reset() {
  HANDOVER_TRY(loss_.check());
  auto done = call(fd(), uapi::kDeviceReset, nullptr);
  if (!done)
    return std::unexpected(
        std::move(done).error().with_context(fmt::format("device `{}` cannot be reset", id_)));
  if (migration_) migration_->forget_session();
  return {};
}

}  // namespace handover::vfio_kernel
