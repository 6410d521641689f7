#include "vfio/bit_runs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "unit/memory/random_seed.h"

namespace handover::vfio {
namespace {

using Runs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

Runs runs(std::span<const std::byte> bitmap, std::uint64_t from, std::uint64_t end) {
  Runs found;
  for_each_bit_run(bitmap, from, end,
                   [&](std::uint64_t first, std::uint64_t count) { found.emplace_back(first, count); });
  return found;
}

// One bit after the other.
Runs naive(std::span<const std::byte> bitmap, std::uint64_t from, std::uint64_t end) {
  Runs found;
  for (auto bit = from; bit < end; ++bit) {
    if ((bitmap[bit / 8] >> bit % 8 & std::byte{1}) == std::byte{0}) continue;
    if (!found.empty() && found.back().first + found.back().second == bit)
      ++found.back().second;
    else
      found.emplace_back(bit, 1);
  }
  return found;
}

TEST(BitRuns, AreTheSameAsBitByBit) {
  std::mt19937_64 random{test::random_seed()};
  for (int i = 0; i < 50'000; ++i) {
    const auto bits = 1 + random() % 400;
    // Exactly as long as the bits need, in memory of its own: the sanitizer sees a look beyond.
    std::vector<std::byte> bitmap((bits + 7) / 8);
    const auto kind = random() % 4;  // sparse, even, dense, long runs
    for (auto& byte : bitmap) {
      const auto any = random() & random();
      byte = static_cast<std::byte>(kind == 0   ? any & random()
                                    : kind == 1 ? any
                                    : kind == 2 ? ~(any & random())
                                                : (random() % 8 == 0   ? 0x3c
                                                   : random() % 2 == 0 ? 0xff
                                                                       : 0));
    }
    const auto end = random() % (bits + 1);
    const auto from = random() % (bits + 1);
    ASSERT_EQ(runs(bitmap, from, end), naive(bitmap, from, end)) << "from " << from << " to " << end;
    ASSERT_EQ(runs(bitmap, 0, bits), naive(bitmap, 0, bits));
  }
}

TEST(BitRuns, JoinAcrossWords) {
  const std::vector<std::byte> ones(24, std::byte{0xff});
  EXPECT_EQ(runs(ones, 0, 192), (Runs{{0, 192}}));
  EXPECT_EQ(runs(ones, 63, 129), (Runs{{63, 66}}));
  EXPECT_EQ(runs(ones, 64, 128), (Runs{{64, 64}}));
}

TEST(BitRuns, NothingIsVisitedWhereNothingIs) {
  const std::vector<std::byte> ones(16, std::byte{0xff});
  EXPECT_EQ(runs({}, 0, 0), Runs{});
  EXPECT_EQ(runs(ones, 70, 70), Runs{});
  EXPECT_EQ(runs(ones, 70, 66), Runs{});
  EXPECT_EQ(runs(ones, 100, 3), Runs{});
  EXPECT_EQ(runs(std::vector<std::byte>(16), 0, 128), Runs{});
}

}  // namespace
}  // namespace handover::vfio
