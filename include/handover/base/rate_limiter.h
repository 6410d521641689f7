#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "handover/base/cancel.h"

namespace handover {

/// Holds a sender to a number of bytes a second, in slices of 100 ms (as QEMU's `max-bandwidth` does).
///
/// One thread sends; any thread may change the rate.
class RateLimiter {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kSlice{100};

  /// 0 means no limit.
  void set_rate(std::uint64_t bytes_per_second) { rate_.store(bytes_per_second, std::memory_order_relaxed); }
  std::uint64_t rate() const { return rate_.load(std::memory_order_relaxed); }

  /// Counts `bytes` as sent in the present slice.
  void count(std::uint64_t bytes) { used_ += bytes; }
  /// True once the present slice is used up; starts a new slice when its time has come.
  bool exhausted();
  /// Waits for the next slice if this one is used up; fails only with Errc::cancelled.
  Status wait(const CancelToken& token);

 private:
  std::atomic<std::uint64_t> rate_{0};
  std::uint64_t used_ = 0;
  Clock::time_point slice_start_{};
};

}  // namespace handover
