#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include "handover/vfio/device.h"
#include "vfio_user/client/connection.h"
#include "vfio_user/client/dma_service.h"
#include "vfio_user/client/peer.h"
#include "vfio_user/dma/iova_log.h"

namespace handover::vfio_user {

/// The server's log of its device's DMA into memory that it has mapped.  (What it writes by message goes
/// through GuestMemory, which logs it there.)
///
/// libvfio-user reports one whole mapping at a time, from its first byte, in the page size of the start, and
/// forgets a mapping that is removed; so reports are asked for in that way, and what was not yet wanted by
/// the caller is kept here until it is.
class ClientDmaLog final : public vfio::DmaLog {
 public:
  ClientDmaLog(Connection& connection, const Peer& peer, const DmaService& dma)
      : connection_(connection), peer_(peer), dma_(dma) {}

  Status start(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges) override;
  Result<std::vector<std::byte>> report(const vfio::IovaRange& range) override;
  Status stop() override;
  std::uint64_t page_size() const override { return IovaLog::kLogPage; }

  std::size_t max_ranges() const override { return kMaxRanges; }

  // For whoever changes mappings; any thread.
  bool started() const { return started_; }
  /// What DMA_UNMAP said about a range that is gone now.
  void keep(const vfio::IovaRange& range, std::span<const std::byte> bitmap) {
    kept_.absorb(range.start.value, range.size, page_size(), bitmap);
  }
  void keep_all(const vfio::IovaRange& range) { kept_.mark(range.start.value, range.size); }
  /// Takes what is kept of a range that is gone.
  void take(const vfio::IovaRange& range, std::span<std::byte> bitmap) {
    kept_.take(range.start.value, range.size, page_size(), bitmap);
  }
  /// The log cannot be trusted any more: the next report fails with this.
  void distrust(Error why);

 private:
  Status fetch(const vfio::IovaRange& range);
  Status fetch_mapping(const vfio::DmaMapping& mapping);

  Connection& connection_;
  const Peer& peer_;
  const DmaService& dma_;
  // As many as fit into one message to any server.
  static constexpr std::size_t kMaxRanges = 1024;

  IovaLog kept_;
  std::atomic<bool> started_{false};
  std::mutex mutex_;  // leaf
  std::optional<Error> distrusted_;
};

}  // namespace handover::vfio_user
