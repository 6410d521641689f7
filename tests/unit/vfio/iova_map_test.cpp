#include "handover/vfio/iova_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "unit/memory/random_seed.h"

namespace handover::vfio {
namespace {

using Pages = std::set<std::uint64_t>;

constexpr std::uint32_t kBoth = kDmaRead | kDmaWrite;

IommuMapping mapping(std::uint64_t iova, std::uint64_t target, std::uint64_t pages = 1,
                     std::uint32_t flags = kBoth) {
  return {Iova{iova * kPageSize}, pages * kPageSize, Gpa{target * kPageSize}, flags};
}
IovaRange pages_at(std::uint64_t iova, std::uint64_t pages) {
  return {Iova{iova * kPageSize}, pages * kPageSize};
}

/// Guest memory, and what of it a map marks.
class IovaMapTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kRam = 4096;  // pages

  /// The pages that a report marks, which are clean again afterwards.
  Pages marked(const DirtyReport& report) {
    const auto fresh = map.mark(report, dirty);
    EXPECT_TRUE(fresh) << fresh.error().to_string();
    Pages pages;
    auto& bitmap = dirty.of(*memory->blocks().front());
    for (std::uint64_t from = 0; const auto run = bitmap.take_run(from, kRam); from = run->first)
      for (std::uint64_t i = 0; i < run->count; ++i)
        pages.insert(run->first + i);
    EXPECT_EQ(fresh.value_or(0), pages.size());
    return pages;
  }
  Pages marked(const IovaRange& range) { return marked(DirtyReport::everything(range)); }
  void unmap(const IommuMapping& gone) {
    map.going(gone);
    map.gone(gone);
  }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam * kPageSize).value();
  DirtyMemory dirty{*memory};
  IovaMap map{48};
};

TEST_F(IovaMapTest, WhatIsMappedIsMarkedAndWhatIsNotIsNot) {
  ASSERT_TRUE(map.add(mapping(100, 7, 3)));
  EXPECT_EQ(marked(pages_at(0, 1000)), (Pages{7, 8, 9}));
  EXPECT_EQ(marked(pages_at(101, 1)), (Pages{8}));
  EXPECT_EQ(marked(pages_at(0, 100)), Pages{});
  EXPECT_EQ(marked(pages_at(103, 100)), Pages{});
  unmap(mapping(100, 7, 3));
  EXPECT_EQ(marked(pages_at(0, 1000)), Pages{});
  EXPECT_EQ(map.size(), 0u);
}

TEST_F(IovaMapTest, AMappingOverAnotherIsRefusedAndChangesNothing) {
  ASSERT_TRUE(map.add(mapping(100, 7, 3)));
  for (const auto& over : {mapping(100, 1), mapping(102, 1, 5), mapping(98, 1, 3), mapping(90, 1, 50)})
    EXPECT_FALSE(map.add(over));
  EXPECT_EQ(marked(pages_at(0, 1000)), (Pages{7, 8, 9}));
  EXPECT_TRUE(map.add(mapping(103, 1)));
  EXPECT_TRUE(map.add(mapping(99, 2)));
}

TEST_F(IovaMapTest, WhatADeviceMayOnlyReadIsNeverMarked) {
  ASSERT_TRUE(map.add(mapping(100, 7, 3, kDmaRead)));
  EXPECT_EQ(marked(pages_at(0, 1000)), Pages{});
  EXPECT_TRUE(map.mapped().empty());
  map.hold();
  map.going(mapping(100, 7, 3, kDmaRead));
  EXPECT_EQ(marked(pages_at(0, 1000)), Pages{});
  map.gone(mapping(100, 7, 3, kDmaRead));
  EXPECT_EQ(marked(pages_at(0, 1000)), Pages{});
}

TEST_F(IovaMapTest, BetweenGoingAndGoneAMappingCounts) {
  ASSERT_TRUE(map.add(mapping(100, 7)));
  map.going(mapping(100, 7));
  EXPECT_EQ(marked(pages_at(100, 1)), (Pages{7}));
  EXPECT_EQ(map.mapped().size(), 1u);
  ASSERT_TRUE(map.add(mapping(100, 8))) << "its place is free";
  EXPECT_EQ(marked(pages_at(100, 1)), (Pages{7, 8}));
  map.gone(mapping(100, 7));
  EXPECT_EQ(marked(pages_at(100, 1)), (Pages{8}));
}

TEST_F(IovaMapTest, WhileHeldAnIovaThatIsGivenToAnotherPageMarksBoth) {
  ASSERT_TRUE(map.add(mapping(100, 7)));
  map.hold();
  unmap(mapping(100, 7));
  ASSERT_TRUE(map.add(mapping(100, 8)));
  EXPECT_EQ(marked(pages_at(100, 1)), (Pages{7, 8}));
  map.release();
  EXPECT_EQ(marked(pages_at(100, 1)), (Pages{8}));
}

TEST_F(IovaMapTest, WhileHeldWhatIsGoneIsStillWithinWhatIsMapped) {
  ASSERT_TRUE(map.add(mapping(100, 7)));
  map.hold();
  unmap(mapping(100, 7));
  ASSERT_EQ(map.mapped().size(), 1u) << "who goes through the ranges would miss it";
  EXPECT_EQ(marked(map.mapped().front()), (Pages{7}));
  map.release();
  EXPECT_TRUE(map.mapped().empty());
}

TEST_F(IovaMapTest, WhatWasGoneBeforeItWasHeldDoesNotCount) {
  ASSERT_TRUE(map.add(mapping(100, 7)));
  unmap(mapping(100, 7));
  map.hold();
  EXPECT_EQ(marked(pages_at(100, 1)), Pages{});
}

TEST_F(IovaMapTest, LettingGoOfWhatIsNotThereChangesNothing) {
  ASSERT_TRUE(map.add(mapping(100, 7)));
  map.gone(mapping(100, 7));
  unmap(mapping(100, 8));
  unmap(mapping(200, 9));
  EXPECT_EQ(marked(pages_at(0, 1000)), (Pages{7}));
  EXPECT_EQ(map.mapped().size(), 1u) << "it counts as often as it was added";
  unmap(mapping(100, 7));
  unmap(mapping(100, 7));
  EXPECT_TRUE(map.mapped().empty());
}

TEST_F(IovaMapTest, AReportWithTooFewBitsIsRefused) {
  ASSERT_TRUE(map.add(mapping(0, 0, 64)));
  const std::vector<std::byte> bits(2, std::byte{0xff});
  const DirtyReport enough{pages_at(0, 16), kPageSize, bits};
  EXPECT_EQ(marked(enough).size(), 16u);
  for (const auto& range : {pages_at(0, 17), IovaRange{Iova{0}, 16 * kPageSize + 1}, pages_at(0, 1u << 20)}) {
    const auto refused = map.mark({range, kPageSize, bits}, dirty);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::protocol);
    EXPECT_EQ(dirty.count(), 0u);
  }
  EXPECT_FALSE(map.mark({pages_at(0, 1), kPageSize, {}}, dirty));
}

TEST_F(IovaMapTest, OfAMappingThatWentWithTooFewBitsEverythingCounts) {
  const IommuMapping mapping{Iova{MiB}, 128 * kPageSize, Gpa{0}, kDmaRead | kDmaWrite};
  const std::vector<std::byte> bits(8);  // of 16 that it needs
  std::uint64_t written = 0;
  for_each_written(mapping, {{mapping.iova, mapping.size}, kPageSize, bits},
                   [&](Gpa at, std::uint64_t size) { written += at.value + size; });
  EXPECT_EQ(written, mapping.size);
}

TEST_F(IovaMapTest, AHundredThousandMappingsAreFoundAgain) {
  constexpr std::uint64_t kMany = 100'000;
  for (std::uint64_t i = 0; i < kMany; ++i)
    ASSERT_TRUE(map.add(mapping(i * 2654435761 % kMany * 2, i % kRam)));
  EXPECT_EQ(map.size(), kMany);
  EXPECT_EQ(marked(map.reach().front()).size(), kRam);
  std::vector<std::byte> bits(kMany * 2 / 8);
  bits[kMany / 16] = std::byte{0b01010101};
  const auto four = marked({pages_at(0, kMany * 2), kPageSize, bits});
  EXPECT_EQ(four.size(), 4u);
  for (std::uint64_t i = 0; i < kMany; ++i)
    unmap(mapping(i * 2654435761 % kMany * 2, i % kRam));
  EXPECT_EQ(map.size(), 0u);
  EXPECT_TRUE(map.mapped().empty());
}

/// The same as IovaMap, page by page.
class NaiveMap {
 public:
  struct Page {
    IommuMapping of;
    std::uint64_t target = 0;
  };
  bool add(const IommuMapping& mapping) {
    for (auto i = first(mapping); i < end(mapping); ++i)
      if (live.contains(i)) return false;
    for (auto i = first(mapping); i < end(mapping); ++i)
      live[i] = page(mapping, i);
    return true;
  }
  void going(const IommuMapping& mapping) {
    for (auto i = first(mapping); i < end(mapping); ++i)
      former.emplace_back(i, live.extract(i).mapped());
    under_way.push_back(mapping);
  }
  void gone(const IommuMapping& mapping) {
    std::erase(under_way, mapping);
    if (!held)
      forget(mapping);
    else
      kept.push_back(mapping);
  }
  void release() {
    held = false;
    for (const auto& mapping : kept)
      forget(mapping);
    kept.clear();
  }
  /// Guest pages that a report stands for: `bit(i)` says what its i-th page is.
  template <class Bit>
  Pages marked(const IovaRange& range, std::uint64_t page_size, Bit bit) const {
    Pages pages;
    const auto look = [&](std::uint64_t iova_page, const Page& page) {
      if ((page.of.flags & kDmaWrite) == 0) return;
      // In the finest steps that a report may have.
      for (auto at = iova_page * kPageSize; at < (iova_page + 1) * kPageSize; at += KiB) {
        const auto start = range.start.value;
        if (at < start || at >= start + range.size) continue;
        if (page_size == 0 || bit((at - start) / page_size)) pages.insert(page.target);
      }
    };
    for (const auto& [i, page] : live)
      look(i, page);
    for (const auto& [i, page] : former)
      look(i, page);
    return pages;
  }
  /// IOVA pages that a device may write to.
  Pages writable() const {
    Pages pages;
    for (const auto& [i, page] : live)
      if (page.of.flags & kDmaWrite) pages.insert(i);
    for (const auto& [i, page] : former)
      if (page.of.flags & kDmaWrite) pages.insert(i);
    return pages;
  }

  std::map<std::uint64_t, Page> live;
  std::vector<std::pair<std::uint64_t, Page>> former;
  std::vector<IommuMapping> under_way;
  std::vector<IommuMapping> kept;
  bool held = false;

 private:
  static std::uint64_t first(const IommuMapping& mapping) { return mapping.iova.value / kPageSize; }
  static std::uint64_t end(const IommuMapping& mapping) { return first(mapping) + mapping.size / kPageSize; }
  static Page page(const IommuMapping& mapping, std::uint64_t i) {
    return {mapping, mapping.target.value / kPageSize + (i - first(mapping))};
  }
  void forget(const IommuMapping& mapping) {
    for (auto i = first(mapping); i < end(mapping); ++i) {
      const auto place = std::ranges::find_if(
          former, [&](const auto& each) { return each.first == i && each.second.of == mapping; });
      ASSERT_NE(place, former.end());
      former.erase(place);
    }
  }
};

class RandomIovaMap : public IovaMapTest {
 protected:
  std::uint64_t number(std::uint64_t below) { return random_() % below; }
  /// Pages of IOVA in use: around the border of two chunks, and far beyond.
  std::uint64_t iova_page() {
    constexpr auto kBorder = 3 * IovaMap::kChunk / kPageSize;
    return (number(4) == 0 ? (std::uint64_t{1} << 40) / kPageSize : kBorder - kSpan / 2) + number(kSpan);
  }
  IommuMapping any() {
    constexpr std::uint32_t kFlags[] = {kBoth, kDmaWrite, kDmaRead};
    const auto pages = 1 + number(number(8) == 0 ? 600 : 12);
    return mapping(iova_page(), number(kRam - pages + 1), pages, kFlags[number(3)]);
  }
  void step() {
    switch (number(8)) {
      case 0:
      case 1:
      case 2: {
        const auto one = any();
        const bool fits = naive_.add(one);
        ASSERT_EQ(map.add(one), fits);
        if (fits) live_.push_back(one);
        break;
      }
      case 3:
      case 4:
        if (!live_.empty()) {
          const auto place = live_.begin() + static_cast<std::ptrdiff_t>(number(live_.size()));
          naive_.going(*place);
          map.going(*place);
          live_.erase(place);
        }
        break;
      case 5:
      case 6:
        if (!naive_.under_way.empty()) {
          const auto one = naive_.under_way[number(naive_.under_way.size())];
          // Equal ones, of which one was forgotten and mapped anew, are told apart by nobody.
          if (std::ranges::count(naive_.under_way, one) > 1) break;
          naive_.gone(one);
          map.gone(one);
        }
        break;
      default:
        if (naive_.held) {
          naive_.release();
          map.release();
        } else {
          naive_.held = true;
          map.hold();
        }
    }
    ASSERT_EQ(map.size(), live_.size());
  }
  void check_report() {
    constexpr std::uint64_t kSizes[] = {0, KiB, 4 * KiB, 2 * MiB};
    const auto page_size = kSizes[number(4)];
    IovaRange range{Iova{iova_page() * kPageSize}, (1 + number(2 * kSpan)) * kPageSize};
    // Finer reports need not begin or end with one of our pages; coarse ones begin with one of theirs.
    if (page_size == KiB) {
      range.start.value += number(4) * KiB;
      range.size += number(4) * KiB;
    }
    if (page_size == 2 * MiB) range.start.value = range.start.value / page_size * page_size;
    std::vector<std::byte> bits(page_size == 0 ? 0 : (range.size - 1) / page_size / 8 + 1);
    const bool sparse = number(2) == 0;
    for (auto& byte : bits)
      byte = static_cast<std::byte>(random_() & random_() & (sparse ? random_() & random_() : ~0ull));
    const auto expected = naive_.marked(range, page_size, [&](std::uint64_t bit) {
      return (bits[bit / 8] >> bit % 8 & std::byte{1}) != std::byte{0};
    });
    ASSERT_EQ(marked({range, page_size, bits}), expected) << "pages of " << page_size;
    found_ += expected.size();
  }
  void check_mapped() {
    const auto ranges = map.mapped();
    Pages chunks;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      ASSERT_EQ(ranges[i].start.value % IovaMap::kChunk, 0u);
      ASSERT_EQ(ranges[i].size % IovaMap::kChunk, 0u);
      if (i > 0) {
        ASSERT_GT(ranges[i].start.value, ranges[i - 1].start.value + ranges[i - 1].size);
      }
      for (std::uint64_t at = 0; at < ranges[i].size; at += IovaMap::kChunk)
        chunks.insert((ranges[i].start.value + at) / IovaMap::kChunk);
    }
    Pages needed;
    for (const auto page : naive_.writable())
      needed.insert(page * kPageSize / IovaMap::kChunk);
    ASSERT_EQ(chunks, needed);
  }

  static constexpr std::uint64_t kSpan = 1024;
  std::mt19937_64 random_{test::random_seed()};
  NaiveMap naive_;
  std::vector<IommuMapping> live_;
  std::uint64_t found_ = 0;
};

TEST_F(RandomIovaMap, IsTheSameAsPageByPage) {
  for (int i = 0; i < 4000 && !HasFatalFailure(); ++i) {
    step();
    if (i % 4 == 0) check_report();
    if (i % 4 == 2) check_mapped();
  }
  EXPECT_GT(found_, 1000u) << "hardly anything was ever marked";
}

}  // namespace
}  // namespace handover::vfio
