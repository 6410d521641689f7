#include <bit>
#include <cerrno>

#include "vfio_user/server/session.h"

namespace handover::vfio_user {

using namespace protocol;

Outcome Session::dma_map(Message& message) {
  HANDOVER_ASSIGN(const auto request, decode<DmaMap>(message.payload));
  HANDOVER_TRY(host_.table.map(request, message.fds.empty() ? UniqueFd() : std::move(message.fds.front())));
  return Reply{};
}

// Kernel semantics: everything completely inside the range goes; nothing there is a success, a cut is not.
// (QEMU with a vIOMMU unmaps ranges that cover many mappings or none.)
Outcome Session::dma_unmap(const Message& message) {
  HANDOVER_ASSIGN(auto request, DmaUnmap::decode(message.payload));
  auto& head = request.head;
  if (head.argsz < wire_size<DmaUnmapHead>()) return refuse(EINVAL, "argsz of DMA_UNMAP is too small");
  std::vector<DmaTable::Range> ranges;
  if (head.flags == kDmaUnmapAll) {
    if (head.address != 0 || head.size != 0) return refuse(EINVAL, "DMA_UNMAP of all with a range");
    ranges = host_.table.all();
  } else if (head.flags == 0 || head.flags == kDmaUnmapGetDirtyBitmap) {
    const auto last = head.address + (head.size - 1);
    if (head.size == 0 || last < head.address)
      return refuse(EINVAL, "DMA_UNMAP of a range that is empty or wraps");
    HANDOVER_ASSIGN(ranges, host_.table.inside(head.address, last));
  } else {
    return refuse(EINVAL, "flags {:#x} of DMA_UNMAP", head.flags);
  }
  if (request.bitmap_shape) {
    auto& shape = *request.bitmap_shape;
    if (!host_.log.on()) return refuse(EINVAL, "dirty bitmap wanted, but nothing is logged");
    if (!std::has_single_bit(shape.page_size)) return refuse(EINVAL, "page size {}", shape.page_size);
    const auto needed = bitmap_bytes(head.size, shape.page_size);
    const auto fixed = wire_size<DmaUnmapHead>() + wire_size<DirtyBitmapShape>();
    if (needed > kMaxBitmap || shape.bytes < needed || head.argsz < fixed + needed)
      return refuse(EINVAL, "dirty bitmap of {} bytes does not fit into {}", needed, shape.bytes);
    shape.bytes = needed;
  }
  request.bitmap = {};
  if (ranges.empty()) return unmapped(request, ranges);

  struct Batch {
    std::size_t left;
    Status status;
  };
  auto batch = std::make_shared<Batch>(Batch{ranges.size(), {}});
  for (const auto& range : ranges)
    host_.model.dma_unmapping(
        Iova{range.start}, range.size,
        completion_on(host_.loop, [self = shared_from_this(), batch, request, ranges](Status status) {
          if (!status) batch->status = std::move(status);
          if (--batch->left > 0) return;
          if (!batch->status)
            self->complete(std::unexpected(std::move(batch->status).error()));
          else
            self->complete(self->unmapped(request, ranges));
        }));
  return std::nullopt;
}

// The model has let go of the ranges.
Reply Session::unmapped(const DmaUnmap& request, const std::vector<DmaTable::Range>& ranges) {
  for (const auto& range : ranges)
    host_.messages->cancel(range.start, range.start + (range.size - 1));
  host_.table.remove(ranges);
  Reply reply;
  auto& out = reply.payload.add(request).payload();
  if (request.bitmap_shape) {
    const auto bitmap_at = out.size();
    out.zeros(request.bitmap_shape->bytes);
    host_.log.take(request.head.address, request.head.size, request.bitmap_shape->page_size,
                   out.view().subspan(bitmap_at));
  }
  return reply;
}

}  // namespace handover::vfio_user
