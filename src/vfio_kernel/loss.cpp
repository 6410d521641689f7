#include "vfio_kernel/loss.h"

#include <utility>

namespace handover::vfio_kernel {

Status Loss::check() const {
  if (!lost()) return {};
  return std::unexpected(Error(Errc::closed, reason_));
}

void Loss::lose(const std::string& reason) {
  std::unique_lock lock(mutex_);
  if (lost()) return;
  reason_ = reason;
  lost_.store(true, std::memory_order_release);
  const auto handlers = std::exchange(handlers_, {});
  lock.unlock();
  waits_.cancel(reason);
  for (const auto& handler : handlers)
    handler(reason);
}

void Loss::on_lost(std::function<void(std::string)> handler) {
  {
    std::lock_guard lock(mutex_);
    if (!lost()) {
      handlers_.push_back(std::move(handler));
      return;
    }
  }
  handler(reason_);
}

}  // namespace handover::vfio_kernel
