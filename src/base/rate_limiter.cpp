#include "handover/base/rate_limiter.h"

#include <poll.h>

namespace handover {

bool RateLimiter::exhausted() {
  const auto rate = this->rate();
  if (rate == 0) return false;
  const auto now = Clock::now();
  if (now - slice_start_ >= kSlice) {
    slice_start_ = now;
    used_ = 0;
    return false;
  }
  return used_ >= rate / (std::chrono::seconds(1) / kSlice);
}

Status RateLimiter::wait(const CancelToken& token) {
  while (exhausted()) {
    auto woken = wait_fd(-1, 0, token, slice_start_ + kSlice);
    if (!woken && woken.error().code() != Errc::timeout) return std::unexpected(std::move(woken).error());
  }
  return {};
}

}  // namespace handover
