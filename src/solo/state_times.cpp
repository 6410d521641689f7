#include "handover/solo/state_times.h"

#include <algorithm>

namespace handover::solo {
namespace {

double ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}
bool runs(vfio::DeviceState state) {
  return state == vfio::DeviceState::running || state == vfio::DeviceState::pre_copy;
}

}  // namespace

void StateTimes::arrived(vfio::DeviceState to, std::chrono::nanoseconds took) {
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  steps_.back().until = now - took;
  steps_.push_back({to, took, now, {}});
}

std::vector<StateStep> StateTimes::steps() const {
  std::lock_guard lock(mutex_);
  std::vector<StateStep> all;
  for (const auto& step : steps_) {
    const auto until = &step == &steps_.back() ? Clock::now() : step.until;
    all.push_back({step.state, ms(step.reached_in), ms(until - step.since)});
  }
  return all;
}

bool StateTimes::visited(vfio::DeviceState state) const {
  std::lock_guard lock(mutex_);
  return std::ranges::find(steps_, state, &Step::state) != steps_.end();
}

double StateTimes::stopped_ms() const {
  double sum = 0;
  bool ran = true;
  for (const auto& step : steps()) {
    const bool running = runs(step.state);
    // The way from a running state to another is no standstill.
    if (!ran || !running) sum += step.reached_in_ms;
    if (!running) sum += step.stayed_ms;
    ran = running;
  }
  return sum;
}

}  // namespace handover::solo
