// How a client's device gets to reach guest memory, and stops reaching it.

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <deque>

#include "handover/base/log.h"
#include "vfio_user/client/device.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

/// Changes that a server of ours is told before it has answered the first: few enough for its socket, which
/// carries a descriptor with each.
constexpr std::size_t kMostAhead = 32;

}  // namespace

/// A command of a change, sent and not yet answered.
struct ClientDevice::ChangeUnderWay {
  vfio::DmaChange* change = nullptr;
  vfio::DmaMapping mapping;  // one of those that the change is about
  bool map = false;
  bool bitmap_asked = false;
  bool all_written = false;  // nobody can say what was written there
  Connection::Ticket ticket;
};

Result<ClientDevice::ChangeUnderWay> ClientDevice::begin_map(vfio::DmaChange& change) {
  const auto& mapping = change.mapping;
  HANDOVER_TRY_CONTEXT(dma_.add(mapping), "{}", name_);
  DmaMap request;
  request.flags = mapping.flags;
  request.offset = mapping.fd >= 0 ? mapping.offset : 0;
  request.address = mapping.iova.value;
  request.size = mapping.size;
  std::vector<UniqueFd> fds;
  if (mapping.fd >= 0 && peer_.max_fds > 0) fds.emplace_back(::fcntl(mapping.fd, F_DUPFD_CLOEXEC, 0));
  if (!fds.empty() && !fds.front()) {
    dma_.remove(mapping.iova);
    return fail_errno(errno, "{}: cannot pass guest memory", name_);
  }
  auto ticket = connection_.begin(Command::dma_map, MessageBuilder().add(request), {}, 0, {}, std::move(fds));
  if (!ticket) {
    dma_.remove(mapping.iova);
    return std::unexpected(std::move(ticket).error());
  }
  return ChangeUnderWay{.change = &change, .mapping = mapping, .map = true, .ticket = std::move(*ticket)};
}

Status ClientDevice::finish_map(ChangeUnderWay& change) {
  auto mapped = connection_.finish(change.ticket);
  if (mapped) return {};
  dma_.remove(change.mapping.iova);
  return std::unexpected(std::move(mapped).error().with_context(
      fmt::format("cannot map [{:#x}, +{:#x}) for DMA", change.mapping.iova.value, change.mapping.size)));
}

Result<ClientDevice::ChangeUnderWay> ClientDevice::begin_unmap(vfio::DmaChange& change,
                                                               const vfio::DmaMapping& mapping) {
  ChangeUnderWay under_way{.change = &change, .mapping = mapping, .ticket = {}};
  DmaUnmap request;
  request.head.address = mapping.iova.value;
  request.head.size = mapping.size;
  std::size_t max_reply = 0;
  const bool writes = !mapping.peer && (mapping.flags & vfio::kDmaWrite) != 0;
  if (writes && dma_log_ && dma_log_->started()) {
    // Without a descriptor the device can only write by message, which is logged here.
    if (mapping.fd >= 0) {
      // The last chance to learn what was written there.
      under_way.bitmap_asked = true;
      request.bitmap_shape = {dma_log_->page_size(), bitmap_bytes(mapping.size, dma_log_->page_size())};
      const auto size =
          wire_size<DmaUnmapHead>() + wire_size<DirtyBitmapShape>() + request.bitmap_shape->bytes;
      request.head.argsz = static_cast<std::uint32_t>(size);
      request.head.flags = kDmaUnmapGetDirtyBitmap;
      max_reply = kHeaderSize + size + kMessageSlack;
    }
  } else {
    under_way.all_written = writes && mapping.fd >= 0;
  }
  HANDOVER_ASSIGN(under_way.ticket, connection_.begin(Command::dma_unmap, MessageBuilder().add(request), {},
                                                      0, {}, {}, max_reply));
  // Its place may be taken by the next change; the server has its own order.
  dma_.remove(mapping.iova);
  return under_way;
}

// `bitmap`: the server's word on it, if it had one.
Status ClientDevice::tell_dirt(const ChangeUnderWay& change, const std::span<const std::byte>* bitmap,
                               const vfio::DirtyReportSink* dirt) {
  const vfio::IovaRange range{change.mapping.iova, change.mapping.size};
  if (!dirt) {
    if (!dma_log_ || !dma_log_->started()) return {};
    if (bitmap)
      dma_log_->keep(range, *bitmap);
    else if (change.bitmap_asked)
      dma_log_->keep_all(range);
    return {};
  }
  if (change.all_written || (change.bitmap_asked && !bitmap))
    return (*dirt)(vfio::DirtyReport::everything(range));
  if (!change.bitmap_asked) return {};
  const auto bytes = bitmap_bytes(range.size, dma_log_->page_size());
  std::vector<std::byte> bits(bitmap->begin(), bitmap->begin() + static_cast<std::ptrdiff_t>(bytes));
  // A report of something else may have brought marks of this range before.
  dma_log_->take(range, bits);
  return (*dirt)({.range = range, .page_size = dma_log_->page_size(), .bits = bits});
}

Status ClientDevice::finish_unmap(ChangeUnderWay& change, const vfio::DirtyReportSink* dirt) {
  const auto& mapping = change.mapping;
  auto reply = connection_.finish(change.ticket);
  if (!reply && connection_.lost()) return std::unexpected(std::move(reply).error());
  if (change.bitmap_asked) {
    const DirtyBitmapShape shape{dma_log_->page_size(), bitmap_bytes(mapping.size, dma_log_->page_size())};
    if (reply) {
      const auto answer = DmaUnmap::decode(reply->payload);
      if (answer && answer->head.address == mapping.iova.value && answer->head.size == mapping.size &&
          answer->bitmap_shape && answer->bitmap_shape->page_size == shape.page_size &&
          answer->bitmap.size() >= shape.bytes) {
        const auto bitmap = answer->bitmap.first(shape.bytes);
        return tell_dirt(change, &bitmap, dirt);
      }
      dma_log_->distrust(
          Error(Errc::protocol,
                fmt::format("{}: the dirty bitmap of [{:#x}, +{:#x}), which was unmapped, is short, or "
                            "of another range or page size",
                            name_, mapping.iova.value, mapping.size)));
      return tell_dirt(change, nullptr, dirt);
    }
    // A server that cannot tell what was written can still unmap.
    DmaUnmap request;
    request.head.address = mapping.iova.value;
    request.head.size = mapping.size;
    reply = connection_.call(Command::dma_unmap, MessageBuilder().add(request));
  }
  // ENOENT: the server has forgotten it already.
  if (!reply && reply.error().sys_errno() != ENOENT) return std::unexpected(std::move(reply).error());
  return tell_dirt(change, nullptr, dirt);
}

Status ClientDevice::finish_change(ChangeUnderWay& change, const vfio::DirtyReportSink* dirt) {
  if (change.map) return finish_map(change);
  HANDOVER_TRY_CONTEXT(finish_unmap(change, dirt), "cannot unmap [{:#x}, +{:#x})", change.mapping.iova.value,
                       change.mapping.size);
  return {};
}

void ClientDevice::dma_change(std::span<vfio::DmaChange> changes, const vfio::DirtyReportSink* dirt) {
  // Another's server may refuse what ours does not, and then the rest would not fit what it has.
  const std::size_t most = peer_.handover && connection_.may_run_ahead() ? kMostAhead : 1;
  std::deque<ChangeUnderWay> ahead;
  const auto finish_first = [&] {
    auto& first = ahead.front();
    auto done = finish_change(first, dirt);
    if (!done && first.change->result) first.change->result = std::move(done);
    ahead.pop_front();
  };
  const auto begun = [&](vfio::DmaChange& change, Result<ChangeUnderWay> under_way) {
    if (!under_way) {
      if (change.result) change.result = std::unexpected(std::move(under_way).error());
      return;
    }
    ahead.push_back(std::move(*under_way));
    if (ahead.size() >= most) finish_first();
  };
  for (auto& change : changes) {
    change.result = {};
    if (change.kind == vfio::DmaChange::Kind::map) {
      begun(change, begin_map(change));
      continue;
    }
    const vfio::IovaRange range{change.mapping.iova, change.mapping.size};
    const auto mappings = dma_.touching(range);
    for (const auto& mapping : mappings)
      if (mapping.iova < range.start ||
          !range_fits(mapping.iova.value - range.start.value, mapping.size, range.size))
        change.result = fail(Errc::invalid_argument, "{}: the DMA mapping at {:#x} would be cut", name_,
                             mapping.iova.value);
    if (!change.result) continue;
    for (const auto& mapping : mappings)
      begun(change, begin_unmap(change, mapping));
  }
  while (!ahead.empty())
    finish_first();
}

Status ClientDevice::dma_map(const vfio::DmaMapping& mapping) {
  vfio::DmaChange change{.kind = vfio::DmaChange::Kind::map, .mapping = mapping, .result = {}};
  dma_change({&change, 1}, nullptr);
  return std::move(change.result);
}

Status ClientDevice::dma_unmap(const vfio::IovaRange& range) {
  vfio::DmaChange change{.kind = vfio::DmaChange::Kind::unmap, .mapping = {}, .result = {}};
  change.mapping.iova = range.start;
  change.mapping.size = range.size;
  dma_change({&change, 1}, nullptr);
  return std::move(change.result);
}

}  // namespace handover::vfio_user
