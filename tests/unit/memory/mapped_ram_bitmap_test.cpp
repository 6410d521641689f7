#include "memory/mapped_ram_bitmap.h"

#include <gtest/gtest.h>

#include "unit/memory/random_seed.h"

namespace handover {
namespace {

TEST(MappedRamBitmap, PageIIsBitIModEightOfByteIOverEight) {
  MappedRamBitmap bitmap(130);
  bitmap.mark({0, 1});
  bitmap.mark({62, 4});
  bitmap.mark({129, 1});
  std::vector<std::byte> expected(24);
  expected[0] = std::byte{0x01};
  expected[7] = std::byte{0xc0};
  expected[8] = std::byte{0x03};
  expected[16] = std::byte{0x02};
  EXPECT_EQ(bitmap.encode(), expected);
  EXPECT_TRUE(bitmap.clear(63));
  EXPECT_FALSE(bitmap.clear(63));
  expected[7] = std::byte{0x40};
  EXPECT_EQ(bitmap.encode(), expected);
}

TEST(MappedRamBitmap, RunsAreWhatWasMarked) {
  std::mt19937_64 random(test::random_seed());
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t pages = 1 + random() % 400;
    std::vector<bool> model(pages);
    MappedRamBitmap bitmap(pages);
    for (int i = 0; i < 8; ++i) {
      const auto first = random() % pages;
      const auto count = random() % (pages - first + 1);
      bitmap.mark({first, count});
      for (auto page = first; page < first + count; ++page)
        model[page] = true;
      const auto gone = random() % pages;
      EXPECT_EQ(bitmap.clear(gone), model[gone]);
      model[gone] = false;
    }
    auto decoded = MappedRamBitmap::decode(bitmap.encode(), pages);
    ASSERT_TRUE(decoded);
    std::vector<bool> found(pages);
    for (std::uint64_t from = 0; from < pages;) {
      const auto run = decoded->next_run(from);
      ASSERT_LE(run.first + run.count, pages);
      for (auto page = run.first; page < run.first + run.count; ++page)
        found[page] = true;
      from = run.first + run.count;
      if (run.count == 0) {
        EXPECT_EQ(run.first, pages);
      }
    }
    EXPECT_EQ(found, model) << "round " << round;
  }
}

TEST(MappedRamBitmap, AWrongSizeOrAPageTooMuchIsRefused) {
  EXPECT_FALSE(MappedRamBitmap::decode(std::vector<std::byte>(7), 10));
  EXPECT_FALSE(MappedRamBitmap::decode(std::vector<std::byte>(16), 10));
  std::vector<std::byte> bytes(8);
  bytes[1] = std::byte{0x02};
  EXPECT_TRUE(MappedRamBitmap::decode(bytes, 10));
  bytes[1] = std::byte{0x04};
  EXPECT_FALSE(MappedRamBitmap::decode(bytes, 10));
}

}  // namespace
}  // namespace handover
