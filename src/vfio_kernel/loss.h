#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/result.h"

namespace handover::vfio_kernel {

/// Whether a device is lost for good, and who wants to know.  Any thread.
class Loss {
 public:
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  /// Errc::closed with the reason once it is lost.
  Status check() const;
  /// Cancelled at the loss: ends a wait for the device.
  CancelToken token() const { return waits_.token(); }
  /// The first reason stays; the handlers are called, on this thread and under no lock.
  void lose(const std::string& reason);
  /// Called once: at the loss, or at once if that has been.
  void on_lost(std::function<void(std::string)> handler);

 private:
  std::atomic<bool> lost_{false};
  mutable std::mutex mutex_;  // leaf
  std::string reason_;        // written before lost_ is set, and never after
  std::vector<std::function<void(std::string)>> handlers_;
  CancelSource waits_;
};

}  // namespace handover::vfio_kernel
