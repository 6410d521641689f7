#include "cli/migration_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace handover::cli {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

const json kActive = json::parse(R"({"status": "active", "expected-downtime": 120,
  "ram": {"total": 1073741824, "remaining": 268435456, "mbps": 838.8608, "dirty-pages-rate": 256,
          "page-size": 4096, "dirty-sync-count": 3, "transferred": 2147483648}})");

TEST(MigrationProgress, SaysHowFarHowFastAndHowDirty) {
  EXPECT_THAT(progress_text(kActive, 200),
              AllOf(HasSubstr("active"), HasSubstr("75% of 1.0 GiB"), HasSubstr("100.0 MiB/s"),
                    HasSubstr("dirty 1.0 MiB/s"), HasSubstr("pass 3"), HasSubstr("120 ms")));
}

TEST(MigrationProgress, NeverWiderThanTheTerminal) {
  for (std::size_t width = 0; width < 100; ++width)
    EXPECT_LE(progress_text(kActive, width).size(), width);
}

TEST(MigrationProgress, TakesAnswersOfAnyShape) {
  for (const char* text : {"null", "[]", "7", "{}", R"({"status": 7, "ram": "x"})",
                           R"({"status": "active", "ram": {"total": "many", "remaining": -1}})",
                           R"({"status": "active", "ram": {"total": 1, "remaining": 1e300, "mbps": -5}})"}) {
    progress_text(json::parse(text), 80);
    summary_text(json::parse(text), "tcp:a:1");
  }
}

TEST(MigrationProgress, SizesAreReadable) {
  EXPECT_EQ(size_text(0), "0 B");
  EXPECT_EQ(size_text(1023), "1023 B");
  EXPECT_EQ(size_text(1536), "1.5 KiB");
  EXPECT_EQ(size_text(5.0 * 1024 * 1024 * 1024 * 1024 * 1024), "5120.0 TiB");
}

}  // namespace
}  // namespace handover::cli
