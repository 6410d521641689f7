#include "handover/memory/dirty_bitmap.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

#include "unit/memory/random_seed.h"

namespace handover {
namespace {

using Pages = std::set<std::uint64_t>;

Pages pages_of(const DirtyBitmap& bitmap) {
  Pages set;
  for (std::uint64_t page = 0; page < bitmap.pages(); ++page)
    if (bitmap.test(page)) set.insert(page);
  return set;
}

std::uint64_t insert_range(Pages& model, std::uint64_t first, std::uint64_t count, std::uint64_t pages) {
  std::uint64_t fresh = 0;
  for (std::uint64_t page = first; page < pages && page - first < count; ++page)
    fresh += model.insert(page).second;
  return fresh;
}

std::vector<std::byte> bitmap_of(const std::vector<bool>& bits) {
  std::vector<std::byte> bytes((bits.size() + 7) / 8);
  for (std::size_t i = 0; i < bits.size(); ++i)
    if (bits[i]) bytes[i / 8] |= std::byte{1} << (i % 8);
  return bytes;
}

TEST(DirtyBitmap, IsEmptyWhenMade) {
  DirtyBitmap bitmap(130);
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_FALSE(bitmap.take_run(0, 1000));
}

TEST(DirtyBitmap, MarksBeyondTheEndAreClipped) {
  DirtyBitmap bitmap(70);
  EXPECT_EQ(bitmap.mark_range(69, ~std::uint64_t{0}), 1u);
  EXPECT_EQ(bitmap.mark_range(70, 1), 0u);
  EXPECT_EQ(bitmap.mark_range(~std::uint64_t{0}, ~std::uint64_t{0}), 0u);
  EXPECT_EQ(pages_of(bitmap), Pages{69});
  EXPECT_FALSE(bitmap.test(70));
}

TEST(DirtyBitmap, TakesARunOverWordBordersUpToTheLimit) {
  DirtyBitmap bitmap(300);
  bitmap.mark_range(60, 140);
  EXPECT_EQ(bitmap.take_run(0, 100), (PageRun{60, 100}));
  EXPECT_EQ(bitmap.take_run(0, 100), (PageRun{160, 40}));
  EXPECT_FALSE(bitmap.take_run(0, 100));
}

TEST(DirtyBitmap, TakesNothingOfZeroPagesOrBeyondTheEnd) {
  DirtyBitmap bitmap(64);
  bitmap.mark_all();
  EXPECT_FALSE(bitmap.take_run(0, 0));
  EXPECT_FALSE(bitmap.take_run(64, 1));
  EXPECT_EQ(bitmap.count(), 64u);
}

TEST(DirtyBitmap, HasNoPagesAtAll) {
  DirtyBitmap bitmap(0);
  bitmap.mark_all();
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_FALSE(bitmap.take_run(0, 1));
}

TEST(DirtyBitmap, BehavesAsASetOfPages) {
  const auto seed = test::random_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    const std::uint64_t pages = 1 + random() % 400;
    DirtyBitmap bitmap(pages);
    Pages model;
    for (int step = 0; step < 80; ++step) {
      const std::uint64_t first = random() % (pages + 10);
      const std::uint64_t count = random() % 150;
      switch (random() % 5) {
        case 0:
        case 1:
          ASSERT_EQ(bitmap.mark_range(first, count), insert_range(model, first, count, pages));
          break;
        case 2: {
          const auto run = bitmap.take_run(first, count);
          const auto next = model.lower_bound(first);
          ASSERT_EQ(run.has_value(), next != model.end() && count > 0);
          if (!run) break;
          ASSERT_EQ(run->first, *next);
          ASSERT_GE(run->count, 1u);
          ASSERT_LE(run->count, count);
          for (std::uint64_t i = 0; i < run->count; ++i)
            ASSERT_EQ(model.erase(run->first + i), 1u);
          // No shorter than it had to be.
          ASSERT_TRUE(run->count == count || !model.contains(run->first + run->count));
          break;
        }
        case 3: {
          DirtyBitmap other(pages);
          other.mark_range(first, count);
          Pages theirs = pages_of(other);
          std::uint64_t fresh = 0;
          for (auto page : theirs)
            fresh += model.insert(page).second;
          ASSERT_EQ(bitmap.absorb(other), fresh);
          ASSERT_EQ(other.count(), 0u);
          break;
        }
        default:
          if (step % 20 == 0) {
            ASSERT_EQ(bitmap.clear(), model.size());
            model.clear();
          }
      }
      ASSERT_EQ(bitmap.count(), model.size());
    }
    ASSERT_EQ(pages_of(bitmap), model);
  }
}

TEST(DirtyBitmap, ImportsAnyPageSizeAtAnyOffset) {
  const auto seed = test::random_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 600; ++round) {
    const std::uint64_t pages = 1 + random() % 300;
    const std::uint64_t page_size = std::uint64_t{1} << (8 + random() % 10);
    const std::uint64_t unit = std::uint64_t{1} << (random() % 13);
    const std::uint64_t offset = random() % (pages * kPageSize + 8192) / unit * unit;
    std::vector<bool> bits(random() % 700);
    const auto sparseness = 1 + random() % 20;
    for (std::size_t i = 0; i < bits.size(); ++i)
      bits[i] = random() % sparseness == 0;

    DirtyBitmap bitmap(pages);
    Pages model;
    insert_range(model, random() % pages, random() % 50, pages);
    for (auto page : model)
      bitmap.mark(page);
    const auto before = model.size();
    for (std::size_t i = 0; i < bits.size(); ++i) {
      if (!bits[i]) continue;
      const std::uint64_t start = offset + i * page_size;
      insert_range(model, start / kPageSize, (start + page_size - 1) / kPageSize - start / kPageSize + 1,
                   pages);
    }
    auto fresh = bitmap.import_le(bitmap_of(bits), bits.size(), offset, page_size);
    ASSERT_TRUE(fresh) << fresh.error().to_string();
    ASSERT_EQ(pages_of(bitmap), model) << "page size " << page_size << " offset " << offset;
    ASSERT_EQ(*fresh, model.size() - before);
  }
}

TEST(DirtyBitmap, ImportRefusesBytesThatAreTooFew) {
  DirtyBitmap bitmap(100);
  std::vector<std::byte> bytes(2, std::byte{0xff});
  EXPECT_TRUE(bitmap.import_le(bytes, 16, 0, kPageSize));
  auto refused = bitmap.import_le(bytes, 17, 0, kPageSize);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::protocol);
  EXPECT_FALSE(bitmap.import_le(bytes, ~std::uint64_t{0}, 0, kPageSize));
}

TEST(DirtyBitmap, ImportRefusesAPageSizeThatIsNoPowerOfTwo) {
  DirtyBitmap bitmap(100);
  std::vector<std::byte> bytes(2, std::byte{0xff});
  for (std::uint64_t size : {std::uint64_t{0}, std::uint64_t{4095}, std::uint64_t{12288}})
    EXPECT_FALSE(bitmap.import_le(bytes, 16, 0, size)) << size;
  EXPECT_EQ(bitmap.count(), 0u);
}

TEST(DirtyBitmap, ImportIgnoresUnusedBitsOfTheLastByte) {
  DirtyBitmap bitmap(100);
  std::vector<std::byte> bytes(9, std::byte{0xff});
  EXPECT_EQ(bitmap.import_le(bytes, 65, 0, kPageSize).value(), 65u);
  EXPECT_FALSE(bitmap.test(65));
}

TEST(DirtyBitmap, ImportOfEnormousPagesDirtiesTheBlockWithoutOverflow) {
  DirtyBitmap bitmap(100);
  std::vector<std::byte> bytes(100, std::byte{0xff});
  EXPECT_EQ(bitmap.import_le(bytes, 800, 50 * kPageSize, std::uint64_t{1} << 63).value(), 50u);
  EXPECT_FALSE(bitmap.test(49));
  EXPECT_EQ(bitmap.import_le(bytes, 800, ~std::uint64_t{0}, std::uint64_t{1} << 63).value(), 0u);
}

TEST(DirtyBitmap, MarkWhileTakingIsNeverLost) {
  // Every marker writes a rising number to a page and then marks it.  The taker takes and then reads, as the
  // migration does: once all is quiet, the last number it read of each page must be the last one written.
  constexpr std::uint64_t kPages = 200;
  constexpr std::uint64_t kWrites = 100000;
  const auto seed = test::random_seed();
  DirtyBitmap bitmap(kPages);
  DirtyBitmap written(kPages);
  std::vector<std::atomic<std::uint64_t>> values(kPages);
  std::vector<std::uint64_t> received(kPages);
  std::atomic<int> running{3};
  std::vector<std::jthread> markers;
  for (std::uint64_t thread = 0; thread < 3; ++thread) {
    markers.emplace_back([&, thread] {
      std::mt19937_64 random(seed + thread);
      for (std::uint64_t i = 1; i <= kWrites; ++i) {
        const std::uint64_t page = random() % kPages;
        values[page].fetch_add(1, std::memory_order_relaxed);
        (thread == 0 ? bitmap : written).mark(page);
      }
      running.fetch_sub(1);
    });
  }
  bool last_pass = false;
  while (!last_pass) {
    last_pass = running.load() == 0;
    bitmap.absorb(written);
    std::uint64_t at = 0;
    while (auto run = bitmap.take_run(at, 7)) {
      for (std::uint64_t page = run->first; page < run->first + run->count; ++page)
        received[page] = values[page].load(std::memory_order_relaxed);
      at = run->first + run->count;
    }
  }
  for (std::uint64_t page = 0; page < kPages; ++page)
    ASSERT_EQ(received[page], values[page].load()) << page;
}

}  // namespace
}  // namespace handover
