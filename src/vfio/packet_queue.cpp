#include "vfio/packet_queue.h"

#include <algorithm>

#include "handover/base/units.h"
#include "vfio/device_packet.h"

namespace handover::vfio {

Status PacketQueue::put(Packet packet) {
  HANDOVER_ASSIGN(const auto header, DevicePacketHeader::take(packet));
  {
    std::lock_guard lock(mutex_);
    if (closed_) return fail(Errc::protocol, "packet {}, where none is expected any more", header.index);
    const bool beyond = last_ && (header.config() || header.index > *last_);
    const bool cut = header.config() && !waiting_.empty() && waiting_.rbegin()->first > header.index;
    if (header.index < next_ || waiting_.contains(header.index) || beyond || cut)
      return fail(Errc::protocol, "packet {} comes twice, or after the last one", header.index);
    const auto charge = packet.charge();
    if (!range_fits(bytes_, charge, max_bytes_))
      return fail(Errc::limit,
                  "{} bytes wait to be loaded and {} more came; max-queued-buffers-size is {} here", bytes_,
                  charge, max_bytes_);
    used_ = true;
    bytes_ += charge;
    peak_ = std::max(peak_, bytes_);
    if (header.config()) last_ = header.index;
    waiting_.emplace(header.index, Entry{header.config(), std::move(packet)});
  }
  changed_.notify_all();
  return {};
}

bool PacketQueue::ready_locked() const {
  return closed_ || (!waiting_.empty() && waiting_.begin()->first == next_);
}

bool PacketQueue::ready() const {
  std::lock_guard lock(mutex_);
  return ready_locked();
}

Result<std::optional<PacketQueue::Entry>> PacketQueue::take(const CancelToken& cancel) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, cancel.stop(), [&] { return ready_locked(); });
  // The cancel first (mission D2).
  HANDOVER_TRY(cancel.check());
  if (closed_) return std::nullopt;
  auto entry = std::move(waiting_.begin()->second);
  waiting_.erase(waiting_.begin());
  ++next_;
  return entry;
}

void PacketQueue::done(const Packet& packet) {
  std::lock_guard lock(mutex_);
  bytes_ -= std::min(bytes_, packet.charge());
}

void PacketQueue::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    waiting_.clear();
  }
  changed_.notify_all();
}

bool PacketQueue::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

std::uint64_t PacketQueue::peak() const {
  std::lock_guard lock(mutex_);
  return peak_;
}

}  // namespace handover::vfio
