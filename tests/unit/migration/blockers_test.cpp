#include "handover/migration/blockers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace handover {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Blockers, WithoutReasonsNothingIsBlocked) {
  Blockers blockers;
  EXPECT_TRUE(blockers.check());
  EXPECT_THAT(blockers.reasons(), IsEmpty());
}

TEST(Blockers, CheckNamesEveryReason) {
  Blockers blockers;
  auto first = blockers.add("gpu0 cannot save its state");
  auto second = blockers.add("nvme0 lacks P2P");
  EXPECT_THAT(blockers.reasons(), ElementsAre("gpu0 cannot save its state", "nvme0 lacks P2P"));
  auto checked = blockers.check();
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code(), Errc::state);
  EXPECT_THAT(checked.error().to_string(), HasSubstr("gpu0 cannot save its state"));
  EXPECT_THAT(checked.error().to_string(), HasSubstr("nvme0 lacks P2P"));
}

TEST(Blockers, TheSameReasonTwiceTakesTwoReleases) {
  Blockers blockers;
  auto first = blockers.add("busy");
  auto second = blockers.add("busy");
  first.release();
  EXPECT_THAT(blockers.reasons(), ElementsAre("busy"));
  first.release();
  EXPECT_THAT(blockers.reasons(), ElementsAre("busy"));
  second.release();
  EXPECT_TRUE(blockers.check());
}

TEST(Blockers, HoldReleasesWhenItGoesAndMovesItsReason) {
  Blockers blockers;
  {
    auto hold = blockers.add("a");
    auto moved = std::move(hold);
    hold.release();
    EXPECT_THAT(blockers.reasons(), ElementsAre("a"));
    auto other = blockers.add("b");
    moved = std::move(other);
    EXPECT_THAT(blockers.reasons(), ElementsAre("b"));
  }
  EXPECT_TRUE(blockers.check());
}

TEST(Blockers, AnyThreadMayAddAndRelease) {
  Blockers blockers;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&blockers] {
      for (int i = 0; i < 500; ++i) {
        auto hold = blockers.add("x");
        EXPECT_FALSE(blockers.check());
      }
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_THAT(blockers.reasons(), IsEmpty());
}

}  // namespace
}  // namespace handover
