#include "handover/base/log.h"

#include <gtest/gtest.h>

#include "handover/base/trace.h"

namespace handover {
namespace {

class Log : public testing::Test {
 protected:
  void TearDown() override { log::set_level(log::Level::warn); }
};

template <class Work>
std::string stderr_of(Work work) {
  testing::internal::CaptureStderr();
  work();
  return testing::internal::GetCapturedStderr();
}

TEST_F(Log, LinesBelowTheLevelAreNotWritten) {
  log::set_level(log::Level::warn);
  EXPECT_EQ(stderr_of([] { log::info("quiet {}", 1); }), "");
  EXPECT_NE(stderr_of([] { log::warn("loud {}", 2); }).find("loud 2"), std::string::npos);
  log::set_level(log::Level::off);
  EXPECT_EQ(stderr_of([] { log::error("off"); }), "");
}

TEST_F(Log, LevelsAreSetByTheNamesThatUsersType) {
  for (auto name : {"trace", "debug", "info", "warn", "error", "off"})
    EXPECT_TRUE(log::set_level(name)) << name;
  log::set_level(log::Level::info);
  EXPECT_FALSE(log::set_level("loud"));
  EXPECT_TRUE(log::enabled(log::Level::info)) << "an unknown name changes nothing";
  EXPECT_FALSE(log::enabled(log::Level::debug));
}

TEST_F(Log, ATracePointIsALogLineAtTraceLevelOnly) {
  auto trace = [] { HANDOVER_TRACE(base_test_event, "ram", 7, 8u); };
  EXPECT_EQ(stderr_of(trace), "");
  log::set_level(log::Level::trace);
  EXPECT_NE(stderr_of(trace).find("base_test_event ram 7 8\n"), std::string::npos);
  EXPECT_NE(stderr_of([] { HANDOVER_TRACE(base_test_bare); }).find("base_test_bare\n"), std::string::npos);
}

}  // namespace
}  // namespace handover
