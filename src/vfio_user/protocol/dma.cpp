#include "handover/vfio_user/protocol_dma.h"

namespace handover::vfio_user::protocol {

Result<DmaUnmap> DmaUnmap::decode(std::span<const std::byte> payload) {
  NativeReader in(payload);
  DmaUnmap message;
  HANDOVER_ASSIGN(message.head, protocol::decode<DmaUnmapHead>(in));
  if (message.head.flags & kDmaUnmapGetDirtyBitmap) {
    HANDOVER_ASSIGN(message.bitmap_shape, protocol::decode<DirtyBitmapShape>(in));
  }
  message.bitmap = in.rest();
  return message;
}

void DmaUnmap::encode(NativeWriter& out) const {
  protocol::encode(out, head);
  if (bitmap_shape) protocol::encode(out, *bitmap_shape);
  out.bytes(bitmap);
}

}  // namespace handover::vfio_user::protocol
