#include "vfio_kernel/removal_watch.h"

#include <poll.h>
#include <pthread.h>

#include "handover/base/log.h"

namespace handover::vfio_kernel {

RemovalWatch::RemovalWatch(UniqueFd event, std::function<void()> asked)
    : event_(std::move(event)), asked_(std::move(asked)) {
  thread_ = std::thread([this, token = over_.token()] {
    ::pthread_setname_np(::pthread_self(), "vfio-removal");
    const auto ready = wait_fd(event_.get(), POLLIN, token);
    if (ready)
      asked_();
    else if (ready.error().code() != Errc::cancelled)
      log::warn("nobody will be told when the host wants a device back: {}", ready.error().to_string());
  });
}

RemovalWatch::~RemovalWatch() {
  over_.cancel();
  thread_.join();
}

}  // namespace handover::vfio_kernel
