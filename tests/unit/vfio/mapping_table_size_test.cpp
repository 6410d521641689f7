// Mappings of all sizes, from a page to many times what the table keeps together.

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "handover/vfio/iova_map.h"
#include "unit/memory/random_seed.h"

namespace handover::vfio {
namespace {

TEST(MappingTableSizes, FindsWhatAnOrderedMapFinds) {
  std::mt19937_64 random{test::random_seed()};
  MappingTable table;
  std::map<std::uint64_t, IommuMapping> naive;
  const auto last_of = [](const IommuMapping& mapping) { return mapping.iova.value + (mapping.size - 1); };
  // The one that has the address, or the next.
  const auto find = [&](std::uint64_t iova) {
    auto next = naive.upper_bound(iova);
    if (next != naive.begin() && last_of(std::prev(next)->second) >= iova) --next;
    return next;
  };
  const auto somewhere = [&] { return random() % (64 * MiB / kPageSize) * kPageSize; };
  for (int i = 0; i < 30'000; ++i) {
    const auto iova = somewhere();
    const auto size = (1 + random() % (std::uint64_t{1} << random() % 12)) * kPageSize;
    const auto there = find(iova);
    if (random() % 4 != 0) {
      const IommuMapping mapping{Iova{iova}, size, Gpa{somewhere()}, kDmaRead};
      const bool is_free = there == naive.end() || there->first > last_of(mapping);
      const auto* added = table.add(mapping);
      ASSERT_EQ(added != nullptr, is_free);
      if (is_free) {
        ASSERT_EQ(*added, mapping);
        naive.emplace(iova, mapping);
      }
    } else if (there != naive.end()) {
      table.remove(Iova{there->first + kPageSize});  // where none starts, or the next one does
      naive.erase(there->first + kPageSize);
      table.remove(Iova{there->first});
      naive.erase(there);
    }
    ASSERT_EQ(table.size(), naive.size());
    const auto probe = somewhere() + random() % kPageSize;
    const auto expected = find(probe);
    const auto* found = table.at_or_after(Iova{probe});
    ASSERT_EQ(found != nullptr, expected != naive.end()) << probe;
    if (found) {
      ASSERT_EQ(*found, expected->second) << probe;
    }
  }
  std::vector<IommuMapping> all;
  for (const auto& [iova, mapping] : naive)
    all.push_back(mapping);
  EXPECT_EQ(table.all(), all);
  EXPECT_EQ(*table.inside({Iova{0}, 128 * MiB}), all);
  table.clear();
  EXPECT_EQ(table.size(), 0u);
  EXPECT_EQ(table.at_or_after(Iova{0}), nullptr);
}

}  // namespace
}  // namespace handover::vfio
