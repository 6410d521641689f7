#include "vfio_user/server/bus.h"

#include "handover/base/trace.h"

namespace handover::vfio_user {

Status Bus::check(Iova at, std::uint64_t size, std::uint32_t permission) {
  auto mapped = table_.check(at, size, permission);
  if (mapped) return mapped;
  ++faults_;
  HANDOVER_TRACE(vfio_user_dma_fault, at.value, size, permission);
  return mapped;
}

Status Bus::dma_read(Iova from, std::span<std::byte> to) {
  HANDOVER_TRY(check(from, to.size(), protocol::kDmaMapRead));
  while (!to.empty()) {
    HANDOVER_ASSIGN(const auto step, table_.read_some(from, to));
    if (step.by_message) HANDOVER_TRY(messages_.read(from, to.first(step.bytes)));
    from = from + step.bytes;
    to = to.subspan(step.bytes);
  }
  return {};
}

Status Bus::dma_write(Iova to, std::span<const std::byte> from) {
  HANDOVER_TRY(check(to, from.size(), protocol::kDmaMapWrite));
  while (!from.empty()) {
    HANDOVER_ASSIGN(const auto step, table_.write_some(to, from));
    if (step.by_message) {
      auto written = messages_.write(to, from.first(step.bytes));
      // Also after a failure: the client may have written some of it.
      log_.written(to.value, step.bytes);
      if (!written) return written;
    }
    to = to + step.bytes;
    from = from.subspan(step.bytes);
  }
  return {};
}

}  // namespace handover::vfio_user
