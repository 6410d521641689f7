#pragma once

#include <chrono>
#include <mutex>
#include <vector>

#include "handover/vfio_abi/device_state.h"

namespace handover::solo {

/// One stay of a device in a state.
struct StateStep {
  vfio::DeviceState state = vfio::DeviceState::running;
  double reached_in_ms = 0;  ///< how long the request that led here took; 0 for the first
  double stayed_ms = 0;      ///< from the end of that request to the beginning of the next, or until now
};

/// Where a device was, in order, and for how long.  Any thread.
class StateTimes {
 public:
  using Clock = std::chrono::steady_clock;

  explicit StateTimes(vfio::DeviceState at) : steps_{{at, {}, Clock::now(), {}}} {}
  /// A request that led to `to` has ended just now.
  void arrived(vfio::DeviceState to, std::chrono::nanoseconds took);

  std::vector<StateStep> steps() const;
  /// True if it has been there.
  bool visited(vfio::DeviceState state) const;
  /// How long it neither ran nor was in PRE_COPY, the requests on the way there and back included: what a
  /// machine with this device would have stood still for it.
  double stopped_ms() const;

 private:
  struct Step {
    vfio::DeviceState state;
    std::chrono::nanoseconds reached_in;
    Clock::time_point since;
    Clock::time_point until;  // of all but the last
  };
  mutable std::mutex mutex_;  // leaf
  std::vector<Step> steps_;
};

}  // namespace handover::solo
