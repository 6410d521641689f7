#include "devices/accelerator/memory_claims.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace handover::accelerator {
namespace {

TEST(MemoryClaims, ReaderGetsWhatTheWriterIsNotAt) {
  MemoryClaims claims;
  claims.begin_write({10, 5});
  const auto read = [&](PageRun wanted) {
    const PageRun got = claims.begin_read(wanted);
    claims.end_read();
    return got;
  };
  EXPECT_EQ(read({0, 10}), (PageRun{0, 10}));
  EXPECT_EQ(read({15, 4}), (PageRun{15, 4}));
  EXPECT_EQ(read({8, 20}), (PageRun{8, 2})) << "the part before";
  EXPECT_EQ(read({12, 20}), (PageRun{15, 17})) << "the part behind";
  EXPECT_EQ(read({11, 3}).count, 0u);
  claims.end_write();
  EXPECT_EQ(read({8, 20}), (PageRun{8, 20}));
}

TEST(MemoryClaims, WriterWaitsForAnOverlappingCopyOnly) {
  MemoryClaims claims;
  claims.begin_read({0, 8});
  claims.begin_write({8, 8});
  claims.end_write();
  std::atomic<bool> written{false};
  std::thread writer([&] {
    claims.begin_write({7, 1});
    written = true;
    claims.end_write();
  });
  EXPECT_FALSE(written);
  claims.end_read();
  writer.join();
  EXPECT_TRUE(written);
}

}  // namespace
}  // namespace handover::accelerator
