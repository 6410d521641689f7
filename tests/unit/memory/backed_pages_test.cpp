#include "memory/backed_pages.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <vector>

namespace handover {
namespace {

std::vector<std::uint64_t> backed(const RamBlock& block, std::uint64_t step) {
  BackedPages pages(block);
  std::vector<std::uint64_t> found;
  for (std::uint64_t from = 0; from < block.pages(); from += step) {
    const std::uint64_t end = std::min(from + step, block.pages());
    PageRun rest{from, end - from};
    while (rest.count > 0) {
      const PageRun run = pages.next(rest);
      EXPECT_GE(run.first, rest.first);
      EXPECT_LE(run.first + run.count, end);
      for (std::uint64_t i = 0; i < run.count; ++i)
        found.push_back(run.first + i);
      rest = {run.first + run.count, end - run.first - run.count};
    }
  }
  return found;
}

TEST(BackedPages, UntouchedMemoryHasNone) {
  auto block = RamBlock::create("ram0", MiB).value();
  EXPECT_TRUE(backed(*block, 256).empty());
}

TEST(BackedPages, AreThoseThatWereWritten) {
  auto block = RamBlock::create("ram0", MiB).value();
  const std::vector<std::uint64_t> written{0, 1, 5, 63, 64, 200, 201, 202, 255};
  for (const auto page : written)
    block->page(page)[100] = std::byte{1};
  for (const std::uint64_t step : {1, 3, 64, 256})
    EXPECT_EQ(backed(*block, step), written) << step;
}

TEST(BackedPages, APageWrittenAfterItWasFoundMissingIsFoundNextTime) {
  auto block = RamBlock::create("ram0", MiB).value();
  block->page(100)[0] = std::byte{1};
  BackedPages pages(*block);
  EXPECT_EQ(pages.next({0, 50}), (PageRun{50, 0}));
  block->page(7)[0] = std::byte{1};
  EXPECT_EQ(pages.next({0, 50}), (PageRun{7, 1}));
  EXPECT_EQ(pages.next({50, 100}), (PageRun{100, 1}));
}

TEST(BackedPages, LookingDoesNotAllocate) {
  auto block = RamBlock::create("ram0", MiB).value();
  block->page(9)[0] = std::byte{1};
  backed(*block, 16);
  struct stat info{};
  ASSERT_EQ(::fstat(block->fd(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_blocks) * 512, kPageSize);
}

}  // namespace
}  // namespace handover
