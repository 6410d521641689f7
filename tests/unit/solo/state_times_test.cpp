#include "handover/solo/state_times.h"

#include <gtest/gtest.h>

#include <thread>

namespace handover::solo {
namespace {

using namespace std::chrono_literals;
using vfio::DeviceState;

TEST(StateTimes, KeepsTheOrderAndHowLongEachRequestTook) {
  StateTimes times(DeviceState::running);
  EXPECT_EQ(times.stopped_ms(), 0);
  times.arrived(DeviceState::pre_copy, 3ms);
  times.arrived(DeviceState::stop_copy, 7ms);
  const auto steps = times.steps();
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_EQ(steps[0].reached_in_ms, 0);
  EXPECT_EQ(steps[1].state, DeviceState::pre_copy);
  EXPECT_DOUBLE_EQ(steps[1].reached_in_ms, 3);
  EXPECT_DOUBLE_EQ(steps[2].reached_in_ms, 7);
  EXPECT_TRUE(times.visited(DeviceState::stop_copy));
  EXPECT_FALSE(times.visited(DeviceState::stop));
}

TEST(StateTimes, StandingStillIsAllFromLeavingARunningStateToComingBack) {
  StateTimes times(DeviceState::running);
  times.arrived(DeviceState::pre_copy, 1000s);  // runs all the way
  EXPECT_EQ(times.stopped_ms(), 0);
  times.arrived(DeviceState::pre_copy_p2p, 1ms);
  times.arrived(DeviceState::stop_copy, 2ms);
  std::this_thread::sleep_for(2ms);
  times.arrived(DeviceState::running, 4ms);
  const auto stopped = times.stopped_ms();
  EXPECT_GE(stopped, 1 + 2 + 4);
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(times.stopped_ms(), stopped) << "it runs again";
}

}  // namespace
}  // namespace handover::solo
