#include "migration/convergence.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace handover {
namespace {

using Seconds = Convergence::Seconds;

constexpr std::size_t kRam = 0;
constexpr std::size_t kDevice = 1;

bool fits(const Convergence& convergence, std::initializer_list<Pending> pending,
          const Parameters& parameters = {}) {
  return convergence.fits(std::vector(pending), parameters);
}

TEST(Convergence, WithoutARateOnlyNothingLeftFits) {
  Convergence convergence;
  EXPECT_TRUE(fits(convergence, {Pending{}}));
  EXPECT_FALSE(fits(convergence, {Pending{.can_precopy = 1}}));
  EXPECT_LT(convergence.expected_downtime_ms(std::vector{Pending{.must_stop = 1}}, {}), 0);
}

TEST(Convergence, WhatIsLeftIsHeldAgainstTheDowntimeLimit) {
  Convergence convergence;
  convergence.sent(kRam, 100'000'000, Seconds{0.1});  // 1 GB/s
  const Parameters parameters{.downtime_limit_ms = 300};
  EXPECT_DOUBLE_EQ(convergence.bandwidth(), 1e9);
  EXPECT_TRUE(fits(convergence, {Pending{.must_stop = 100'000'000, .can_precopy = 200'000'000}}, parameters));
  EXPECT_FALSE(
      fits(convergence, {Pending{.must_stop = 100'000'001, .can_precopy = 200'000'000}}, parameters));
}

TEST(Convergence, ASlowDeviceCountsAtItsOwnRate) {
  Convergence convergence;
  convergence.sent(kRam, 1'000'000'000, Seconds{1});
  convergence.sent(kDevice, 100'000'000, Seconds{1});
  const std::vector left{Pending{.can_precopy = 100'000'000}, Pending{.must_stop = 50'000'000}};
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 100 + 500);
}

// Sending and loading overlap: the slower of the two counts.
TEST(Convergence, ADestinationThatLoadsSlowlyCountsAtItsRate) {
  Convergence convergence;
  convergence.sent(kRam, 1'000'000'000, Seconds{1});
  convergence.sent(kDevice, 1'000'000'000, Seconds{1});
  convergence.loaded(kDevice, 50'000'000, Seconds{0.5});
  EXPECT_DOUBLE_EQ(convergence.load_rate(kDevice), 1e8);
  const std::vector left{Pending{}, Pending{.must_stop = 50'000'000}};
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 500);
  convergence.loaded(kDevice, 0, Seconds{0});
  EXPECT_DOUBLE_EQ(convergence.load_rate(kDevice), 1e8) << "nothing new is known";
  convergence.loaded(kDevice, 5'000'000'000, Seconds{1});
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 50) << "now sending is the slower";
}

TEST(Convergence, DevicesSideBySideTakeAsLongAsTheSlowest) {
  Convergence convergence;
  convergence.sent(kRam, 4'000'000'000, Seconds{1});
  for (std::size_t device = 1; device <= 4; ++device) {
    convergence.sent(device, 1'000'000'000, Seconds{1});
    convergence.set_parallel(device);
  }
  std::vector left{Pending{.can_precopy = 40'000'000}};
  left.resize(5, Pending{.must_stop = 100'000'000});
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 110) << "the link needs that for all of it";
  left[2].must_stop = 300'000'000;
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 300) << "the slowest";
}

// A device that cannot tell its size counts with what it can tell.
TEST(Convergence, AnUnknownSizeDoesNotHoldTheSwitchover) {
  Convergence convergence;
  convergence.sent(kRam, 1'000'000'000, Seconds{1});
  EXPECT_TRUE(fits(convergence, {Pending{}, Pending{.size_unknown = true}}));
}

TEST(Convergence, AnItemThatWasNotMeasuredCountsAtTheCommonRate) {
  Convergence convergence;
  convergence.sent(kRam, 1'000'000'000, Seconds{1});
  const std::vector left{Pending{}, Pending{.must_stop = 50'000'000}};
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 50);
}

// Mission C3: initial bytes hold the switchover off, however little is left.
TEST(Convergence, AnItemThatHoldsTheSwitchoverIsObeyed) {
  Convergence convergence;
  convergence.sent(kRam, 1 << 30, Seconds{1});
  EXPECT_FALSE(fits(convergence, {Pending{}, Pending{.hold_switchover = true}}));
}

TEST(Convergence, AGivenSwitchoverBandwidthReplacesTheMeasuredOne) {
  Convergence convergence;
  convergence.sent(kRam, 1 << 30, Seconds{1});
  const Parameters parameters{.avail_switchover_bandwidth = 1000, .downtime_limit_ms = 1000};
  EXPECT_TRUE(fits(convergence, {Pending{.must_stop = 1000}}, parameters));
  EXPECT_FALSE(fits(convergence, {Pending{.must_stop = 1001}}, parameters));
}

TEST(Convergence, ASmallMachineThatHasSentEverythingNeedNotWaitForAWindow) {
  Convergence convergence;
  convergence.sent(kRam, 4096, Seconds{0.001});
  EXPECT_EQ(convergence.bandwidth(), 0);
  convergence.settle();
  EXPECT_TRUE(fits(convergence, {Pending{.must_stop = 8}}));
}

// A device that has sent next to nothing is not slow because of it.
TEST(Convergence, SoFewBytesSayNothingAboutARate) {
  Convergence convergence;
  convergence.sent(kRam, 1'000'000'000, Seconds{1});
  for (int i = 0; i < 100; ++i)
    convergence.sent(kDevice, 30, Seconds{0.01});
  const std::vector left{Pending{}, Pending{.must_stop = 50'000'000}};
  EXPECT_DOUBLE_EQ(convergence.expected_downtime_ms(left, {}), 50) << "the common rate";
}

TEST(Convergence, AMachineWithNothingToMeasureByDoesNotWaitForEver) {
  Convergence convergence;
  convergence.sent(kDevice, 30, Seconds{0.001});
  const std::vector left{Pending{}, Pending{.must_stop = 200'000}};
  EXPECT_LT(convergence.expected_downtime_ms(left, {}), 0);
  convergence.settle();
  EXPECT_TRUE(convergence.fits(left, {}));
}

TEST(Convergence, PassesThatHalveWhatIsLeftGoOnUntilItIsShortEnough) {
  Convergence convergence;
  convergence.sent(kRam, 1'000'000'000, Seconds{1});  // a million bytes take a millisecond
  const Parameters parameters{.downtime_limit_ms = 300};
  auto after_pass = [&](std::uint64_t ms) {
    return convergence.worth_another_pass(std::vector{Pending{.can_precopy = ms * 1'000'000}}, parameters);
  };
  EXPECT_TRUE(after_pass(290));
  EXPECT_TRUE(after_pass(140));
  EXPECT_FALSE(after_pass(90)) << "not halved";
  EXPECT_FALSE(after_pass(30)) << "a tenth of the limit";
}

TEST(Convergence, AFewBytesLoadedTellNoRate) {
  Convergence convergence;
  convergence.sent(kRam, 1 << 30, Seconds{1});
  convergence.loaded(kRam, 88, Seconds{0.001});
  EXPECT_EQ(convergence.load_rate(kRam), 0);
  EXPECT_TRUE(fits(convergence, {Pending{.must_stop = 1 << 20}}));
  convergence.loaded(kRam, 1 << 20, Seconds{2});
  EXPECT_EQ(convergence.load_rate(kRam), 1 << 19);
  EXPECT_FALSE(fits(convergence, {Pending{.must_stop = 1 << 20}}));
}

TEST(Convergence, TheRateFollowsTheLastWindow) {
  Convergence convergence;
  convergence.sent(kRam, 100'000, Seconds{1});
  convergence.sent(kRam, 400'000, Seconds{1});
  EXPECT_DOUBLE_EQ(convergence.bandwidth(), 400'000);
}

}  // namespace
}  // namespace handover
