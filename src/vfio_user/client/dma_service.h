#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"
#include "vfio_user/transport/message.h"

namespace handover::vfio_user {

/// What a client has mapped for its device, and the answers to the server's DMA_READ and DMA_WRITE in it.
///
/// What is written goes through GuestMemory, so it is logged there.  Any thread.
class DmaService {
 public:
  explicit DmaService(GuestMemory& memory) : memory_(memory) {}

  /// Fails if the range is empty, wraps, or overlaps another.
  Status add(const vfio::DmaMapping& mapping);
  void remove(Iova start);
  /// The mappings that touch the range, in ascending order.
  std::vector<vfio::DmaMapping> touching(const vfio::IovaRange& range) const;

  /// Commands of the server's that reached nothing: not mapped, or not for that.
  std::uint64_t faults() const { return faults_.load(std::memory_order_relaxed); }

  /// The whole reply to a command of the server's.
  std::vector<std::byte> answer(const Message& command);

 private:
  Result<MessageBuilder> serve(const Message& command);
  int copy(std::uint64_t address, std::span<std::byte> to, std::span<const std::byte> from);
  bool copy_part(const vfio::DmaMapping& mapping, std::uint64_t offset, std::span<std::byte> to,
                 std::span<const std::byte> from);

  GuestMemory& memory_;
  // A leaf: once remove() has returned, no DMA of the server's touches the range any more.
  mutable std::mutex mutex_;
  std::map<std::uint64_t, vfio::DmaMapping> mappings_;
  std::atomic<std::uint64_t> faults_{0};
};

}  // namespace handover::vfio_user
