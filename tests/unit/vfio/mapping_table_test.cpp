#include <gtest/gtest.h>

#include <map>
#include <random>

#include "handover/vfio/iova_map.h"
#include "unit/memory/random_seed.h"

namespace handover::vfio {
namespace {

constexpr std::uint32_t kBoth = kDmaRead | kDmaWrite;

IommuMapping mapping(std::uint64_t iova, std::uint64_t target, std::uint64_t pages) {
  return {Iova{iova * kPageSize}, pages * kPageSize, Gpa{target * kPageSize}, kBoth};
}

TEST(MappingTable, FindsWhatLiesInsideAndRefusesToCut) {
  std::mt19937_64 random{test::random_seed()};
  MappingTable table;
  std::map<std::uint64_t, IommuMapping> naive;  // by each page
  constexpr std::uint64_t kSpan = 200;
  int cut = 0;
  for (int i = 0; i < 50'000; ++i) {
    const auto one = mapping(random() % kSpan, random() % 100, 1 + random() % 6);
    const auto start = one.iova.value / kPageSize;
    const auto end = start + one.size / kPageSize;
    const auto first = naive.lower_bound(start);
    const bool is_free = first == naive.end() || first->first >= end;
    if (random() % 2 == 0) {
      const auto* added = table.add(one);
      ASSERT_EQ(added != nullptr, is_free);
      if (added) {
        ASSERT_EQ(*added, one);
      }
      for (auto page = start; added && page < end; ++page)
        naive[page] = one;
    } else {
      std::vector<IommuMapping> expected;
      bool cuts = false;
      for (auto at = first; at != naive.end() && at->first < end; ++at) {
        const auto& each = at->second;
        cuts |= each.iova < one.iova || each.iova.value + each.size > end * kPageSize;
        if (expected.empty() || expected.back() != each) expected.push_back(each);
      }
      const auto inside = table.inside({one.iova, one.size});
      ASSERT_EQ(inside.has_value(), !cuts);
      cut += cuts ? 1 : 0;
      if (cuts) {
        EXPECT_EQ(inside.error().code(), Errc::invalid_argument);
        continue;
      }
      ASSERT_EQ(*inside, expected);
      for (const auto& each : *inside)
        table.remove(each.iova);
      std::erase_if(naive, [&](const auto& page) { return page.first >= start && page.first < end; });
    }
    const auto probe = random() % kSpan;
    const auto* at = table.at(Iova{probe * kPageSize + random() % kPageSize});
    const auto there = naive.find(probe);
    ASSERT_EQ(at != nullptr, there != naive.end());
    if (at) {
      ASSERT_EQ(*at, there->second);
    }
    const auto* next = table.at_or_after(Iova{probe * kPageSize});
    const auto after = naive.lower_bound(probe);
    ASSERT_EQ(next != nullptr, after != naive.end());
    if (next) {
      ASSERT_EQ(*next, after->second);
    }
  }
  EXPECT_GT(cut, 100);
  std::size_t pages = 0;
  for (const auto& each : table.all())
    pages += each.size / kPageSize;
  EXPECT_EQ(pages, naive.size());
  table.clear();
  EXPECT_EQ(table.size(), 0u);
}

TEST(MappingTable, ReachesTheLastAddress) {
  MappingTable table;
  constexpr std::uint64_t kLast = ~std::uint64_t{0} - kPageSize + 1;
  ASSERT_TRUE(table.add({Iova{kLast}, kPageSize, Gpa{0}, kBoth}));
  EXPECT_FALSE(table.add({Iova{kLast}, kPageSize, Gpa{0}, kBoth}));
  EXPECT_TRUE(table.at(Iova{~std::uint64_t{0}}));
  EXPECT_EQ(table.inside({Iova{1}, ~std::uint64_t{0}})->size(), 1u);
  EXPECT_TRUE(table.inside({Iova{kLast}, 0})->empty());
}

}  // namespace
}  // namespace handover::vfio
