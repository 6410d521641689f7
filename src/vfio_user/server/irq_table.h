#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/vfio_abi/device_info.h"
#include "vfio_user/transport/message.h"

namespace handover::vfio_user {

/// The eventfds that a client installed, one array an interrupt index, and what is masked.
///
/// The server's loop changes it; trigger() may be called by any thread.
class IrqTable {
 public:
  explicit IrqTable(std::span<const std::uint32_t, vfio::kPciIrqs> counts);

  std::uint32_t count(std::uint32_t index) const {
    return static_cast<std::uint32_t>(vectors_[index].size());
  }
  /// DEVICE_SET_IRQS with all its checks; `fds` are those that came with it.
  Status set(std::span<const std::byte> payload, std::vector<UniqueFd> fds);
  void clear();

  /// Signals the vector's eventfd; a masked vector is remembered and signalled when it is unmasked.
  void trigger(std::uint32_t index, std::uint32_t vector);

 private:
  struct Vector {
    std::shared_ptr<UniqueFd> eventfd;
    bool masked = false;
    bool pending = false;
  };
  Status install(std::uint32_t index, std::uint32_t start, std::uint32_t count, std::vector<UniqueFd> fds);
  void set_masked(std::uint32_t index, std::uint32_t vector, bool masked);

  // A leaf: protects the vectors.  An eventfd is written after it is released.
  mutable std::mutex mutex_;
  std::vector<Vector> vectors_[vfio::kPciIrqs];
};

}  // namespace handover::vfio_user
