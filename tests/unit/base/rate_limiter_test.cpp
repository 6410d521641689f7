#include "handover/base/rate_limiter.h"

#include <gtest/gtest.h>

#include "handover/base/units.h"

namespace handover {
namespace {

using Clock = RateLimiter::Clock;

/// A limiter whose present slice is used up (unless the machine stalls for a whole slice in here).
void use_up(RateLimiter& limiter) {
  limiter.count(1 * GiB);
  (void)limiter.exhausted();
  limiter.count(1 * GiB);
}

TEST(RateLimiter, WithoutARateNothingIsEverExhausted) {
  RateLimiter limiter;
  limiter.count(100 * GiB);
  EXPECT_FALSE(limiter.exhausted());
  EXPECT_TRUE(limiter.wait({}));
}

// Only the lower bound is tested: a slow machine sends later, never sooner.
TEST(RateLimiter, NeverSendsFasterThanItsRate) {
  constexpr std::uint64_t kRate = 10 * MiB;
  constexpr std::uint64_t kChunk = 64 * KiB;
  constexpr int kSlices = 4;
  RateLimiter limiter;
  limiter.set_rate(kRate);
  const auto start = Clock::now();
  std::uint64_t sent = 0;
  while (sent < kSlices * kRate / 10) {
    ASSERT_TRUE(limiter.wait({}));
    limiter.count(kChunk);
    sent += kChunk;
  }
  // Each slice may go over by less than a chunk, so the last slice may be missing.
  EXPECT_GE(Clock::now() - start, (kSlices - 1) * RateLimiter::kSlice);
}

TEST(RateLimiter, ARateBelowOneByteASliceStillMoves) {
  RateLimiter limiter;
  limiter.set_rate(1);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(limiter.wait({}));
    limiter.count(4096);
  }
}

TEST(RateLimiter, ACancelEndsTheWait) {
  RateLimiter limiter;
  limiter.set_rate(1);
  CancelSource source;
  source.cancel("enough");
  Status status;
  // A stall of a whole slice between the two calls opens a new slice, and then there is nothing to wait for.
  do {
    use_up(limiter);
    status = limiter.wait(source.token());
  } while (status);
  EXPECT_EQ(status.error().to_string(), "enough");
}

TEST(RateLimiter, ANewRateTakesEffectAtOnce) {
  RateLimiter limiter;
  limiter.set_rate(1);
  use_up(limiter);
  limiter.set_rate(0);
  EXPECT_EQ(limiter.rate(), 0u);
  EXPECT_FALSE(limiter.exhausted());
}

}  // namespace
}  // namespace handover
