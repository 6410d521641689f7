#include "handover/vfio/iova_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <set>

#include "unit/memory/random_seed.h"

namespace handover::vfio {
namespace {

using Ranges = std::vector<IovaRange>;
using Set = std::set<std::uint64_t>;  // every address for itself

constexpr std::uint64_t kTop = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kSpan = 64;  // addresses that random ranges lie in

std::uint64_t last_of(const IovaRange& range) {
  return range.start.value + (range.size - 1);
}

// Not by `<=`: the last address may be the last that there is.
Set addresses(std::span<const IovaRange> ranges) {
  Set all;
  for (const auto& range : ranges)
    for (std::uint64_t i = 0; i < range.size; ++i)
      all.insert(range.start.value + i);
  return all;
}

bool sorted_and_apart(std::span<const IovaRange> ranges) {
  for (std::size_t i = 0; i + 1 < ranges.size(); ++i)
    if (ranges[i + 1].start.value <= last_of(ranges[i])) return false;
  return std::ranges::none_of(ranges, [](const IovaRange& range) { return range.size == 0; });
}

/// Ranges in [base, base + kSpan).
class RandomRanges {
 public:
  explicit RandomRanges(std::uint64_t base) : base_(base) {}
  std::uint64_t number(std::uint64_t below) { return random_() % below; }
  IovaRange one() {
    const auto at = number(kSpan);
    return {Iova{base_ + at}, 1 + number(std::min(kSpan - at, 1 + number(kSpan)))};
  }
  /// In any order, over each other, and some of them empty.
  Ranges any(std::size_t most) {
    Ranges ranges(number(most + 1));
    for (auto& range : ranges) {
      range = one();
      range.size = number(8) == 0 ? 0 : std::min(range.size, 1 + number(12));
    }
    return ranges;
  }
  /// As covered() and common_parts() take them: ascending and apart, some adjacent.
  Ranges sorted() {
    Ranges ranges;
    for (std::uint64_t at = number(6); at < kSpan;) {
      const auto size = std::min(1 + number(9), kSpan - at);
      ranges.push_back({Iova{base_ + at}, size});
      at += size + (number(3) == 0 ? 0 : number(7));
    }
    return ranges;
  }

 private:
  const std::uint64_t base_;
  std::mt19937_64 random_{test::random_seed()};
};

/// Where ranges are looked at: low, across 2^63, and up to the last address.
class IovaRanges : public testing::TestWithParam<std::uint64_t> {
 protected:
  RandomRanges random{GetParam()};
};

TEST_P(IovaRanges, ARangeIsCoveredIfEveryAddressOfItIs) {
  int yes = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto sorted = random.sorted();
    const auto range = random.one();
    const auto has = addresses(sorted);
    const auto wants = addresses(std::span(&range, 1));
    const bool all = std::ranges::includes(has, wants);
    yes += all ? 1 : 0;
    ASSERT_EQ(covered(sorted, range), all) << range.start.value - GetParam() << " +" << range.size;
  }
  EXPECT_GT(yes, 200);
}

TEST_P(IovaRanges, CommonPartsAreTheAddressesThatBothHave) {
  for (int i = 0; i < 20'000; ++i) {
    const auto sorted = random.sorted();
    const auto range = random.one();
    const auto parts = common_parts(sorted, range);
    ASSERT_TRUE(sorted_and_apart(parts));
    Set both;
    std::ranges::set_intersection(addresses(sorted), addresses(std::span(&range, 1)),
                                  std::inserter(both, both.end()));
    ASSERT_EQ(addresses(parts), both);
  }
}

// The oracle tries every choice of gaps by size: closing the smallest adds the fewest addresses.
TEST_P(IovaRanges, MergedRangesHaveEveryAddressAndAsFewOthersAsPossible) {
  for (int i = 0; i < 20'000; ++i) {
    const auto ranges = random.any(12);
    const auto most = 1 + random.number(8);
    const auto merged = merge_ranges(ranges, most);
    const auto before = addresses(ranges);
    const auto after = addresses(merged);
    ASSERT_LE(merged.size(), most);
    ASSERT_TRUE(sorted_and_apart(merged));
    ASSERT_TRUE(std::ranges::includes(after, before));
    for (std::size_t k = 0; k + 1 < merged.size(); ++k)
      ASSERT_GT(merged[k + 1].start.value - last_of(merged[k]), 1u) << "adjacent ones are not joined";

    std::vector<std::uint64_t> gaps;
    for (auto at = before.begin(); at != before.end() && std::next(at) != before.end(); ++at)
      if (const auto gap = *std::next(at) - *at - 1; gap > 0) gaps.push_back(gap);
    std::ranges::sort(gaps);
    std::uint64_t added = 0;
    for (std::size_t k = 0; k + most < gaps.size() + 1; ++k)
      added += gaps[k];
    ASSERT_EQ(after.size() - before.size(), added);
  }
}

INSTANTIATE_TEST_SUITE_P(At, IovaRanges,
                         testing::Values(0, (std::uint64_t{1} << 63) - kSpan / 2, kTop - kSpan + 1));

TEST(IovaRangesEdges, NothingCoversNothingButTheEmpty) {
  EXPECT_FALSE(covered({}, {Iova{0}, 1}));
  EXPECT_TRUE(covered({}, {Iova{5}, 0}));
  const Ranges far{{Iova{100}, 10}};
  EXPECT_TRUE(covered(far, {Iova{5}, 0}));
  EXPECT_TRUE(covered(far, {Iova{0}, 0}));
  EXPECT_TRUE(common_parts(far, {Iova{102}, 0}).empty());
  EXPECT_TRUE(merge_ranges({}, 3).empty());
  EXPECT_TRUE(merge_ranges({{Iova{7}, 0}}, 3).empty());
}

TEST(IovaRangesEdges, RangesFromOneEndOfAllAddressesToTheOther) {
  const Ranges ends{{Iova{0}, kPageSize}, {Iova{kTop - kPageSize + 1}, kPageSize}, {Iova{1ull << 40}, 1}};
  const auto two = merge_ranges(ends, 2);
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].size, (1ull << 40) + 1) << "the smaller gap";
  EXPECT_EQ(last_of(two[1]), kTop);
  EXPECT_FALSE(covered(two, {Iova{1}, kTop}));
  EXPECT_TRUE(covered(two, {Iova{kTop}, 1}));
  EXPECT_EQ(common_parts(two, {Iova{1}, kTop}).size(), 2u);
}

TEST(IovaRangesEdges, AtLeastOneRangeComesOut) {
  const auto merged = merge_ranges({{Iova{9}, 1}, {Iova{3}, 1}}, 0);
  ASSERT_EQ(merged.size(), 1u);
  EXPECT_EQ(merged[0].start, Iova{3});
  EXPECT_EQ(merged[0].size, 7u);
}

}  // namespace
}  // namespace handover::vfio
