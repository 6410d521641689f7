#pragma once

#include <functional>
#include <thread>

#include "handover/base/cancel.h"
#include "handover/base/unique_fd.h"

namespace handover::vfio_kernel {

/// Waits, on a thread of its own, for the kernel to ask for a device back: an eventfd behind VFIO's REQ
/// interrupt, which the kernel signals again and again until the device is closed.
///
/// `asked` is called once at the most, on that thread, and must not end the watch.
class RemovalWatch {
 public:
  RemovalWatch(UniqueFd event, std::function<void()> asked);
  /// Waits for `asked` if it is being called.
  ~RemovalWatch();
  RemovalWatch(const RemovalWatch&) = delete;
  RemovalWatch& operator=(const RemovalWatch&) = delete;

 private:
  const UniqueFd event_;
  const std::function<void()> asked_;
  CancelSource over_;
  std::thread thread_;
};

}  // namespace handover::vfio_kernel
