#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "vfio_kernel/dma_space.h"

namespace handover::vfio_kernel {
namespace {

using Pair = std::pair<std::uint64_t, std::uint64_t>;

constexpr std::uint64_t kAny = ~std::uint64_t{0};

vfio::MappingTable table(const std::vector<Pair>& mappings) {
  vfio::MappingTable made;
  for (const auto& [start, size] : mappings)
    EXPECT_NE(made.add({.iova = Iova{start}, .size = size, .target = {}, .flags = 0}), nullptr);
  return made;
}

Pair run(const vfio::MappingTable& mapped, std::uint64_t start, std::uint64_t size,
         std::uint64_t most = kAny) {
  const auto found = next_run(mapped, {Iova{start}, size}, most);
  return found ? Pair{found->start.value, found->size} : Pair{0, 0};
}

constexpr Pair kNone{0, 0};

TEST(NextRun, NeighboursAreOneRunAndAHoleEndsIt) {
  const auto mapped = table({{0x1000, 0x1000}, {0x2000, 0x3000}, {0x6000, 0x1000}});
  EXPECT_EQ(run(mapped, 0, 0x10000), Pair(0x1000, 0x4000));
  EXPECT_EQ(run(mapped, 0x5000, 0x10000), Pair(0x6000, 0x1000));
  EXPECT_EQ(run(mapped, 0x7000, 0x10000), kNone);
  EXPECT_EQ(run(mapped, 0, 0x1000), kNone);
  EXPECT_EQ(run(mapped, 0x5000, 0x1000), kNone);
  EXPECT_EQ(run(mapped, 0x1000, 0), kNone);
}

TEST(NextRun, AMappingThatTheRangeCutsBelongsToItAsAWhole) {
  const auto mapped = table({{0x1000, 0x2000}, {0x3000, 0x2000}, {0x5000, 0x1000}});
  EXPECT_EQ(run(mapped, 0x2000, 0x1000), Pair(0x1000, 0x2000));
  EXPECT_EQ(run(mapped, 0x2000, 0x2000), Pair(0x1000, 0x4000));
  EXPECT_EQ(run(mapped, 0x1000, 0x4000), Pair(0x1000, 0x4000)) << "and no neighbour that it does not touch";
}

TEST(NextRun, ARunHasNoMoreThanMayBeAskedForUnlessOneMappingHas) {
  const auto mapped = table({{0x1000, 0x3000}, {0x4000, 0x1000}, {0x5000, 0x1000}, {0x6000, 0x1000}});
  EXPECT_EQ(run(mapped, 0, 0x10000, 0x1000), Pair(0x1000, 0x3000));
  EXPECT_EQ(run(mapped, 0, 0x10000, 0x4000), Pair(0x1000, 0x4000));
  EXPECT_EQ(run(mapped, 0x4000, 0x10000, 0x2000), Pair(0x4000, 0x2000));
  EXPECT_EQ(run(mapped, 0x4000, 0x10000, 0), Pair(0x4000, 0x1000));
}

TEST(NextRun, TheLastAddressOfAllIsNoSpecialCase) {
  const auto mapped = table({{kAny - 0x1fff, 0x1000}, {kAny - 0xfff, 0x1000}});
  EXPECT_EQ(run(mapped, 0x1000, kAny - 0xfff), Pair(kAny - 0x1fff, 0x2000));
}

}  // namespace
}  // namespace handover::vfio_kernel
