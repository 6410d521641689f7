#include <algorithm>
#include <cerrno>

#include "handover/base/byte_order.h"
#include "vfio_user/server/session.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

std::uint32_t region_flags(const RegionSpec& region) {
  if (region.size == 0) return 0;
  auto flags = region.flags & (vfio::kRegionRead | vfio::kRegionWrite);
  if (region.fd >= 0) flags |= vfio::kRegionMmap;
  return flags;
}

template <FixedPart T>
Result<T> request_of(const Message& message) {
  HANDOVER_ASSIGN(auto request, decode<T>(message.payload));
  if (request.argsz < wire_size<T>()) return refuse(EINVAL, "argsz of {} bytes is too small", request.argsz);
  return request;
}

}  // namespace

Outcome Session::get_info(const Message& message) {
  HANDOVER_TRY(request_of<DeviceInfo>(message));
  DeviceInfo info;
  info.flags = vfio::kDeviceFlagPci | (host_.spec.resettable ? vfio::kDeviceFlagReset : 0);
  info.num_regions = vfio::kPciRegions + (v1_ ? 1 : 0);
  info.num_irqs = vfio::kPciIrqs;
  Reply reply;
  reply.payload.add(info);
  return reply;
}

const RegionSpec* Session::find_region(std::uint32_t index) const {
  if (index < vfio::kPciRegions) return &host_.spec.regions[index];
  return v1_ && index == V1Region::kIndex ? &v1_->spec() : nullptr;
}

Outcome Session::get_region_info(const Message& message) {
  HANDOVER_ASSIGN(const auto request, request_of<RegionInfoHead>(message));
  const auto* found = find_region(request.index);
  if (!found) return refuse(EINVAL, "no region {}", request.index);
  const auto& region = *found;
  RegionInfoReply info;
  if (request.index == V1Region::kIndex) info.type = vfio::v1::kRegionType;
  info.head.flags = region_flags(region);
  info.head.index = request.index;
  info.head.size = region.size;
  const bool mappable = info.head.flags & vfio::kRegionMmap;
  if (mappable) {
    info.head.offset = region.fd_offset;
    info.sparse = region.areas.empty() ? std::vector{vfio::RegionArea{0, region.size}} : region.areas;
  }
  Reply reply;
  if (request.argsz < info.encoded_size()) {
    // The client learns how much it must ask for, and gets neither capabilities nor the descriptor.
    info.head.argsz = static_cast<std::uint32_t>(info.encoded_size());
    reply.payload.add(info.head);
    return reply;
  }
  reply.payload.add(info);
  if (mappable) {
    UniqueFd shared(::dup(region.fd));
    if (!shared) return refuse(errno, "cannot pass the memory of region {}", request.index);
    reply.fds.push_back(std::move(shared));
  }
  return reply;
}

// No model has ioeventfds, so the answer is always an empty list.
Outcome Session::get_region_io_fds(const Message& message) {
  HANDOVER_ASSIGN(auto request, request_of<RegionIoFdsHead>(message));
  if (request.flags != 0 || request.count != 0) return refuse(EINVAL, "flags or count are not 0");
  const auto* region = find_region(request.index);
  if (!region || region->size == 0) return refuse(EINVAL, "no region {}", request.index);
  request.argsz = wire_size<RegionIoFdsHead>();
  Reply reply;
  reply.payload.add(request);
  return reply;
}

Outcome Session::get_irq_info(const Message& message) {
  HANDOVER_ASSIGN(auto info, request_of<IrqInfo>(message));
  if (info.index >= vfio::kPciIrqs) return refuse(EINVAL, "no interrupt index {}", info.index);
  info.argsz = wire_size<IrqInfo>();
  info.flags = vfio::kIrqEventfd;
  info.count = host_.irqs.count(info.index);
  Reply reply;
  reply.payload.add(info);
  return reply;
}

Status Session::check_access(std::uint32_t region, std::uint64_t offset, std::uint64_t count,
                             std::uint32_t needs) const {
  const auto* spec = find_region(region);
  if (!spec) return refuse(EINVAL, "no region {}", region);
  if (count > host_.options.max_data_xfer_size) return refuse(EINVAL, "{} bytes at once", count);
  if (!range_fits(offset, count, spec->size))
    return refuse(EINVAL, "[{:#x}, +{:#x}) is not in region {} of {:#x} bytes", offset, count, region,
                  spec->size);
  if (!(spec->flags & needs)) return refuse(EINVAL, "region {} does not allow it", region);
  return {};
}

Outcome Session::region_read(const Message& message) {
  HANDOVER_ASSIGN(const auto head, decode<RegionAccessHead>(message.payload));
  HANDOVER_TRY(check_access(head.region, head.offset, head.count, vfio::kRegionRead));
  Reply reply;
  auto& out = reply.payload.add(head).payload();
  const auto data_at = out.size();
  out.zeros(head.count);
  if (head.count == 0) return reply;
  const auto to = out.view().subspan(data_at);
  HANDOVER_TRY(head.region == V1Region::kIndex ? v1_->read(head.offset, to)
                                               : host_.model.region_read(head.region, head.offset, to));
  return reply;
}

Status Session::write_region(std::uint32_t region, std::uint64_t offset, std::span<const std::byte> data) {
  HANDOVER_TRY(check_access(region, offset, data.size(), vfio::kRegionWrite));
  if (data.empty()) return {};
  if (region == V1Region::kIndex) return v1_->write(offset, data);
  return host_.model.region_write(region, offset, data);
}

Outcome Session::region_write(const Message& message) {
  HANDOVER_ASSIGN(const auto access, RegionAccess::decode(message.payload));
  if (access.data.size() != access.head.count)
    return refuse(EINVAL, "{} bytes announced, {} there", access.head.count, access.data.size());
  if (access.head.region == V1Region::kIndex && v1_ &&
      V1Region::is_device_state(access.head.offset, access.data.size()))
    return write_device_state(access);
  HANDOVER_TRY(write_region(access.head.region, access.head.offset, access.data));
  Reply reply;
  reply.payload.add(access.head);
  return reply;
}

// The reply comes when the device has really changed.
Outcome Session::write_device_state(const RegionAccess& access) {
  const auto value = load_int<std::uint32_t, std::endian::native>(access.data.data());
  const auto answer = [head = access.head] {
    Reply reply;
    reply.payload.add(head);
    return reply;
  };
  HANDOVER_ASSIGN(const bool done, v1_->set_state(value, [self = shared_from_this(), answer](Status status) {
    if (status)
      self->complete(answer());
    else
      self->complete(std::unexpected(std::move(status).error()));
  }));
  if (!done) return std::nullopt;
  return answer();
}

// Stops at the first write that fails; the reply says how many were done.
Outcome Session::region_write_multi(const Message& message) {
  HANDOVER_ASSIGN(const auto request, RegionWriteMulti::decode(message.payload));
  WrittenCount written;
  for (const auto& [head, data] : request.entries) {
    if (head.count == 0 || head.count > data.size()) break;
    if (!write_region(head.region, head.offset, std::span(data).first(head.count))) break;
    ++written.count;
  }
  Reply reply;
  reply.payload.add(written);
  return reply;
}

Outcome Session::device_reset() {
  if (!host_.spec.resettable) return refuse(EINVAL, "the device cannot be reset");
  host_.walker->reset([self = shared_from_this()](Status status) {
    if (status && self->v1_) self->v1_->forget();
    if (status)
      self->complete(Reply{});
    else
      self->complete(std::unexpected(std::move(status).error()));
  });
  return std::nullopt;
}

}  // namespace handover::vfio_user
