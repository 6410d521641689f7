#include "vfio_user/dma/iova_log.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "handover/base/units.h"
#include "handover/vfio_user/protocol_migration.h"

namespace handover::vfio_user {
namespace {

std::set<std::uint64_t> take(IovaLog& log, std::uint64_t start, std::uint64_t size,
                             std::uint64_t page_size = 4096) {
  std::vector<std::byte> bitmap(protocol::bitmap_bytes(size, page_size));
  log.take(start, size, page_size, bitmap);
  std::set<std::uint64_t> pages;
  for (std::uint64_t bit = 0; bit < bitmap.size() * 8; ++bit)
    if ((bitmap[bit / 8] >> (bit % 8) & std::byte{1}) != std::byte{0}) pages.insert(bit);
  return pages;
}

using Pages = std::set<std::uint64_t>;

TEST(IovaLog, MarksAreTakenOnce) {
  IovaLog log;
  log.mark(0x1000, 1);
  log.mark(0x5fff, 2);
  EXPECT_EQ(take(log, 0, 1 * MiB), (Pages{1, 5, 6}));
  EXPECT_EQ(take(log, 0, 1 * MiB), Pages{});
}

TEST(IovaLog, SubRangesAndOtherPageSizesMeanTheSameMemory) {
  for (std::uint64_t page_size : {512u, 4096u, 65536u, 1u << 20}) {
    IovaLog log;
    log.mark(0x20000, 0x1000);
    log.mark(0x7ffff000, 0x2000);
    Pages expected;
    for (std::uint64_t at = 0x20000; at < 0x21000; at += 512)
      expected.insert((at - 0x10000) / page_size);
    EXPECT_EQ(take(log, 0x10000, 0x100000, page_size), expected) << page_size;
    expected.clear();
    for (std::uint64_t at = 0x7ffff000; at < 0x80001000; at += 512)
      expected.insert((at - 0x7fff0000) / page_size);
    EXPECT_EQ(take(log, 0x7fff0000, 0x100000, page_size), expected) << page_size;
  }
}

TEST(IovaLog, PageThatARangeCoversInPartStaysMarked) {
  IovaLog log;
  log.mark(0x1000, 0x3000);
  EXPECT_EQ(take(log, 0x1800, 0x1000), (Pages{0}));
  EXPECT_EQ(take(log, 0, 0x10000), (Pages{1, 2, 3})) << "both pages were covered only in part";
}

TEST(IovaLog, ReachesToTheEndOfTheAddressSpace) {
  IovaLog log;
  const auto top = ~std::uint64_t{0} - 0xfff;
  log.mark(top, 0x1000);
  EXPECT_EQ(take(log, top - 0x3000, 0x4000), (Pages{3}));
}

TEST(IovaLog, GivesUpDetailAndNotMarksBeyondItsLimit) {
  IovaLog log;
  for (std::uint64_t i = 0; i <= IovaLog::kMaxChunks; ++i)
    log.mark(i * 128 * MiB, 1);
  EXPECT_EQ(take(log, 0x5000, 0x2000), (Pages{0, 1}));
  log.clear();
  EXPECT_EQ(take(log, 0x5000, 0x2000), Pages{});
}

TEST(IovaLog, AbsorbsWhatAnotherLogReported) {
  IovaLog log;
  const std::byte bitmap[8] = {std::byte{0x82}, std::byte{0x01}};
  log.absorb(0x100000, 9 * 0x1000, 0x1000, bitmap);
  EXPECT_EQ(take(log, 0x100000, 0x10000), (Pages{1, 7, 8}));
}

TEST(IovaLog, EqualsASetOfPagesForRandomMarksAndTakes) {
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937_64 random(seed);
  IovaLog log;
  Pages model;
  for (int round = 0; round < 1000; ++round) {
    const auto page = random() % 70000, count = random() % 200 + 1;
    if (random() % 2) {
      log.mark(page * 4096, count * 4096);
      for (auto p = page; p < page + count; ++p)
        model.insert(p);
    } else {
      Pages expected;
      for (auto p = page; p < page + count; ++p)
        if (model.erase(p)) expected.insert(p - page);
      EXPECT_EQ(take(log, page * 4096, count * 4096), expected) << "seed " << seed;
    }
  }
}

TEST(IovaLog, MarkWhileTakingIsNeverLost) {
  IovaLog log;
  constexpr std::uint64_t kPages = 5000;
  std::atomic<bool> done{false};
  std::vector<std::thread> writers;
  for (int w = 0; w < 2; ++w)
    writers.emplace_back([&, w] {
      for (auto p = static_cast<std::uint64_t>(w); p < kPages; p += 2)
        log.mark(p * 4096, 1);
    });
  Pages seen;
  std::thread reader([&] {
    for (bool last = false; !last;) {
      last = done;
      seen.merge(take(log, 0, kPages * 4096));
    }
  });
  for (auto& writer : writers)
    writer.join();
  done = true;
  reader.join();
  EXPECT_EQ(seen.size(), kPages);
}

}  // namespace
}  // namespace handover::vfio_user
