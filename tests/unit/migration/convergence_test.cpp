#include "migration/convergence.h"

#include <gtest/gtest.h>

namespace handover {
namespace {

using Seconds = Convergence::Seconds;

TEST(Convergence, WithoutABandwidthOnlyNothingLeftFits) {
  Convergence convergence;
  EXPECT_TRUE(convergence.fits(Pending{}, Parameters{}));
  EXPECT_FALSE(convergence.fits(Pending{.can_precopy = 1}, Parameters{}));
  EXPECT_LT(convergence.expected_downtime_ms(Pending{.must_stop = 1}, Parameters{}), 0);
}

TEST(Convergence, WhatIsLeftIsHeldAgainstTheDowntimeLimit) {
  Convergence convergence;
  convergence.sent(100'000'000, Seconds{0.1});  // 1 GB/s
  Parameters parameters{.downtime_limit_ms = 300};
  EXPECT_DOUBLE_EQ(convergence.bandwidth(), 1e9);
  EXPECT_TRUE(convergence.fits(Pending{.must_stop = 100'000'000, .can_precopy = 200'000'000}, parameters));
  EXPECT_FALSE(convergence.fits(Pending{.must_stop = 100'000'001, .can_precopy = 200'000'000}, parameters));
}

// Mission C3: initial bytes hold the switchover off, however little is left.
TEST(Convergence, AnItemThatHoldsTheSwitchoverIsObeyed) {
  Convergence convergence;
  convergence.sent(1 << 30, Seconds{1});
  EXPECT_FALSE(convergence.fits(Pending{.hold_switchover = true}, Parameters{}));
}

TEST(Convergence, AGivenSwitchoverBandwidthReplacesTheMeasuredOne) {
  Convergence convergence;
  convergence.sent(1 << 30, Seconds{1});
  Parameters parameters{.avail_switchover_bandwidth = 1000, .downtime_limit_ms = 1000};
  EXPECT_TRUE(convergence.fits(Pending{.must_stop = 1000}, parameters));
  EXPECT_FALSE(convergence.fits(Pending{.must_stop = 1001}, parameters));
}

TEST(Convergence, ASmallMachineThatHasSentEverythingNeedNotWaitForAWindow) {
  Convergence convergence;
  convergence.sent(4096, Seconds{0.001});
  EXPECT_EQ(convergence.bandwidth(), 0);
  convergence.settle();
  EXPECT_TRUE(convergence.fits(Pending{.must_stop = 8}, Parameters{}));
}

TEST(Convergence, TheBandwidthFollowsTheLastWindow) {
  Convergence convergence;
  convergence.sent(1000, Seconds{1});
  convergence.sent(4000, Seconds{1});
  EXPECT_DOUBLE_EQ(convergence.bandwidth(), 4000);
}

}  // namespace
}  // namespace handover
