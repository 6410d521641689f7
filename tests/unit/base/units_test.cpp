#include "handover/base/units.h"

#include <gtest/gtest.h>

#include <limits>

namespace handover {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

TEST(RangeFits, AgreesWithWideArithmeticAtEveryEdge) {
  constexpr std::uint64_t kEdges[] = {
      0, 1, 2, 4095, 4096, 4097, kMax / 2, kMax / 2 + 1, kMax / 2 + 2, kMax - 4096, kMax - 1, kMax,
  };
  for (auto offset : kEdges)
    for (auto length : kEdges)
      for (auto size : kEdges) {
        const auto end = static_cast<unsigned __int128>(offset) + length;
        EXPECT_EQ(range_fits(offset, length, size), end <= size)
            << offset << " + " << length << " in " << size;
      }
}

TEST(RangeFits, AnEmptyRangeFitsAtTheEndAndNotBeyond) {
  EXPECT_TRUE(range_fits(10, 0, 10));
  EXPECT_FALSE(range_fits(11, 0, 10));
}

TEST(AlignUp, RoundsToTheNextUnit) {
  EXPECT_EQ(align_up(0, 4096), 0u);
  EXPECT_EQ(align_up(1, 4096), 4096u);
  EXPECT_EQ(align_up(4096, 4096), 4096u);
  EXPECT_EQ(align_up(4097, 4096), 8192u);
}

}  // namespace
}  // namespace handover
