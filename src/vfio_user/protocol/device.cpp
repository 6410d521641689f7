#include "handover/vfio_user/protocol_device.h"

#include <algorithm>

#include "handover/base/units.h"

namespace handover::vfio_user::protocol {
namespace {

// Capability ids of the VFIO uAPI.
constexpr std::uint16_t kCapSparseMmap = 1;
constexpr std::uint16_t kCapType = 2;

struct CapHead {
  std::uint16_t id = 0;
  std::uint16_t version = 1;
  std::uint32_t next = 0;  // from the start of the payload
  static constexpr auto fields() { return std::tuple{&CapHead::id, &CapHead::version, &CapHead::next}; }
};
constexpr std::size_t kTypeCapSize = 16;
constexpr std::size_t kAreaSize = 16;
constexpr std::size_t kSparseCapSize = 16;

Result<std::vector<vfio::RegionArea>> decode_areas(NativeReader& in) {
  HANDOVER_ASSIGN(auto count, in.u32());
  HANDOVER_TRY(in.skip(4));
  if (count > in.remaining() / kAreaSize)
    return fail(Errc::protocol, "sparse mmap capability announces {} areas in {} bytes", count,
                in.remaining());
  std::vector<vfio::RegionArea> areas(count);
  for (auto& area : areas) {
    HANDOVER_ASSIGN(area.offset, in.u64());
    HANDOVER_ASSIGN(area.size, in.u64());
  }
  return areas;
}

}  // namespace

Result<RegionInfoReply> RegionInfoReply::decode(std::span<const std::byte> payload) {
  RegionInfoReply reply;
  HANDOVER_ASSIGN(reply.head, protocol::decode<RegionInfoHead>(payload));
  if (!(reply.head.flags & vfio::kRegionCaps)) return reply;
  std::uint32_t last = kRegionInfoSize - 1;
  for (auto at = reply.head.cap_offset; at != 0;) {
    if (at <= last || at > payload.size())
      return fail(Errc::protocol,
                  "region {}: capability at offset {} of a payload of {} bytes, after one at {}",
                  reply.head.index, at, payload.size(), last);
    NativeReader in(payload.subspan(at));
    HANDOVER_ASSIGN(auto cap, protocol::decode<CapHead>(in));
    if (cap.id == kCapSparseMmap && !reply.sparse) {
      HANDOVER_ASSIGN(reply.sparse, decode_areas(in));
    } else if (cap.id == kCapType && !reply.type) {
      vfio::RegionType type;
      HANDOVER_ASSIGN(type.type, in.u32());
      HANDOVER_ASSIGN(type.subtype, in.u32());
      reply.type = type;
    }
    last = at;
    at = cap.next;
  }
  return reply;
}

std::size_t RegionInfoReply::encoded_size() const {
  return kRegionInfoSize + (type ? kTypeCapSize : 0) +
         (sparse ? kSparseCapSize + sparse->size() * kAreaSize : 0);
}

void RegionInfoReply::encode(NativeWriter& out) const {
  const auto start = out.size();
  auto whole = head;
  whole.argsz = std::max(head.argsz, static_cast<std::uint32_t>(encoded_size()));
  whole.cap_offset = type || sparse ? kRegionInfoSize : 0;
  whole.flags = (head.flags & ~vfio::kRegionCaps) | (type || sparse ? vfio::kRegionCaps : 0);
  protocol::encode(out, whole);
  if (type) {
    const auto end = static_cast<std::uint32_t>(out.size() - start + kTypeCapSize);
    protocol::encode(out, CapHead{kCapType, 1, sparse ? end : 0});
    out.u32(type->type);
    out.u32(type->subtype);
  }
  if (sparse) {
    protocol::encode(out, CapHead{kCapSparseMmap, 1, 0});
    out.u32(static_cast<std::uint32_t>(sparse->size()));
    out.u32(0);
    for (const auto& area : *sparse) {
      out.u64(area.offset);
      out.u64(area.size);
    }
  }
}

Result<RegionIoFds> RegionIoFds::decode(std::span<const std::byte> payload) {
  NativeReader in(payload);
  RegionIoFds message;
  HANDOVER_ASSIGN(message.head, protocol::decode<RegionIoFdsHead>(in));
  const auto count = message.head.count;
  // A reply that was cut because the request's argsz was too small has no entries.
  if (count == 0 || in.remaining() == 0) return message;
  const auto stride = (std::uint64_t{message.head.argsz} - wire_size<RegionIoFdsHead>()) / count;
  if (message.head.argsz < wire_size<RegionIoFdsHead>() || (stride != 40 && stride != 48))
    return fail(Errc::protocol, "{} I/O descriptors in {} bytes: neither 40 nor 48 bytes each", count,
                message.head.argsz);
  if (count > in.remaining() / stride)
    return fail(Errc::protocol, "{} I/O descriptors announced, {} bytes there", count, in.remaining());
  for (std::uint32_t i = 0; i < count; ++i) {
    HANDOVER_ASSIGN(auto entry, protocol::decode<RegionIoFd>(in));
    message.entries.push_back(entry);
    if (stride == 48) {
      HANDOVER_ASSIGN(auto match, in.u64());
      message.datamatch.push_back(match);
    }
  }
  return message;
}

void RegionIoFds::encode(NativeWriter& out) const {
  protocol::encode(out, head);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    protocol::encode(out, entries[i]);
    if (i < datamatch.size()) out.u64(datamatch[i]);
  }
}

Result<RegionWriteMulti> RegionWriteMulti::decode(std::span<const std::byte> payload) {
  NativeReader in(payload);
  HANDOVER_ASSIGN(auto count, in.u64());
  constexpr std::size_t kEntrySize = wire_size<MultiWriteHead>() + 8;
  if (in.remaining() % kEntrySize != 0 || count != in.remaining() / kEntrySize)
    return fail(Errc::protocol, "{} writes announced in {} bytes", count, in.remaining());
  RegionWriteMulti message;
  message.entries.resize(count);
  for (auto& entry : message.entries) {
    HANDOVER_ASSIGN(entry.head, protocol::decode<MultiWriteHead>(in));
    HANDOVER_ASSIGN(auto data, in.bytes(8));
    std::ranges::copy(data, entry.data.begin());
  }
  return message;
}

void RegionWriteMulti::encode(NativeWriter& out) const {
  out.u64(entries.size());
  for (const auto& entry : entries) {
    protocol::encode(out, entry.head);
    out.bytes(entry.data);
  }
}

}  // namespace handover::vfio_user::protocol
