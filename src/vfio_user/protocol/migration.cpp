#include "handover/vfio_user/protocol_migration.h"

namespace handover::vfio_user::protocol {

Result<DmaLoggingStart> DmaLoggingStart::decode(std::span<const std::byte> data) {
  NativeReader in(data);
  DmaLoggingStart start;
  HANDOVER_ASSIGN(start.head, protocol::decode<DmaLoggingStartHead>(in));
  constexpr auto kRangeSize = wire_size<LoggedRange>();
  if (in.remaining() % kRangeSize != 0 || start.head.num_ranges != in.remaining() / kRangeSize)
    return fail(Errc::protocol, "{} ranges announced in {} bytes", start.head.num_ranges, in.remaining());
  start.ranges.resize(start.head.num_ranges);
  for (auto& range : start.ranges) {
    HANDOVER_ASSIGN(range, protocol::decode<LoggedRange>(in));
  }
  return start;
}

void DmaLoggingStart::encode(NativeWriter& out) const {
  auto whole = head;
  whole.num_ranges = static_cast<std::uint32_t>(ranges.size());
  protocol::encode(out, whole);
  for (const auto& range : ranges)
    protocol::encode(out, range);
}

Result<DirtyPages> DirtyPages::decode(std::span<const std::byte> payload) {
  NativeReader in(payload);
  DirtyPages message;
  HANDOVER_ASSIGN(message.head, protocol::decode<DirtyPagesHead>(in));
  if (message.head.flags & kDirtyPagesGetBitmap) {
    HANDOVER_ASSIGN(message.range, protocol::decode<DirtyPagesRange>(in));
  }
  message.bitmap = in.rest();
  return message;
}

void DirtyPages::encode(NativeWriter& out) const {
  protocol::encode(out, head);
  if (range) protocol::encode(out, *range);
  out.bytes(bitmap);
}

}  // namespace handover::vfio_user::protocol
