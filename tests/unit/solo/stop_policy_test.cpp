#include "solo/stop_policy.h"

#include <gtest/gtest.h>

namespace handover::solo {
namespace {

TEST(StopPolicy, RoundsAreCountedAndNothingElseMatters) {
  StopPolicy policy(2, 300);
  EXPECT_TRUE(policy.hold(0, 0, true));
  policy.round_ended();
  EXPECT_TRUE(policy.hold(0, 0, true));
  policy.round_ended();
  EXPECT_FALSE(policy.hold(1000 * GiB, GiB, true));
}

TEST(StopPolicy, WithARateItIsTheLimitThatDecides) {
  StopPolicy policy(std::nullopt, 300);
  policy.given(1000 * MiB, 1);  // a mebibyte a millisecond
  EXPECT_TRUE(policy.hold(1 * MiB, 0, false)) << "one round at least";
  policy.round_ended();
  EXPECT_TRUE(policy.hold(301 * MiB, 0, false));
  EXPECT_FALSE(policy.hold(299 * MiB, 0, false));
  EXPECT_DOUBLE_EQ(policy.expected_ms(200 * MiB).value(), 200);
}

TEST(StopPolicy, AnotherRoundIsMadeAsLongAsItHalvesWhatIsLeft) {
  StopPolicy policy(std::nullopt, 300);
  policy.given(1000 * MiB, 1);
  policy.round_ended();
  EXPECT_TRUE(policy.hold(290 * MiB, 0, true));
  EXPECT_FALSE(policy.hold(140 * MiB, 0, false)) << "only exact figures count";
  EXPECT_TRUE(policy.hold(140 * MiB, 0, true));
  EXPECT_FALSE(policy.hold(90 * MiB, 0, true)) << "not halved";
  StopPolicy quick(std::nullopt, 300);
  quick.given(1000 * MiB, 1);
  quick.round_ended();
  EXPECT_FALSE(quick.hold(29 * MiB, 0, true)) << "a tenth of the limit";
}

TEST(StopPolicy, SmallPiecesTellNoRateAndNobodyWaitsForOne) {
  StopPolicy policy(std::nullopt, 300);
  policy.given(88, 0.001);  // would be 88 KB a second
  EXPECT_FALSE(policy.expected_ms(1));
  EXPECT_FALSE(policy.hold(100 * GiB, 0, true));
}

TEST(StopPolicy, ADeviceThatAnnouncesAndGivesNothingIsBelievedForAWhile) {
  StopPolicy policy(std::nullopt, 300);
  for (std::uint32_t round = 0; round < StopPolicy::kPatience; ++round) {
    EXPECT_TRUE(policy.hold(1 * GiB, 1 * MiB, true)) << round;
    policy.round_ended();
  }
  EXPECT_FALSE(policy.hold(1 * GiB, 1 * MiB, true));
}

}  // namespace
}  // namespace handover::solo
