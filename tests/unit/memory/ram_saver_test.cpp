// What RamMigration writes, looked at word by word with a reader that shares nothing with the loader.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <limits>
#include <map>

#include "handover/base/byte_reader.h"
#include "handover/memory/ram_migration.h"
#include "unit/memory/memory_channel.h"

namespace handover {
namespace {

const IterateBudget kNoLimit{std::numeric_limits<std::uint64_t>::max(), {}};

struct PageRecord {
  std::uint64_t page = 0;
  bool zero = false;
  bool continued = false;
  std::string name;  // as written, or of the record that it continues
  std::vector<std::byte> content;
};

struct Section {
  std::uint64_t total = 0;
  std::vector<std::pair<std::string, std::uint64_t>> blocks;
  std::vector<PageRecord> pages;
};

/// Walks section bodies one after the other; keeps the remembered block between them.
class Walker {
 public:
  Section next(BeReader& in) {
    Section section;
    for (;;) {
      const std::uint64_t word = in.u64().value();
      const std::uint64_t flags = word & 0xfff;
      const std::uint64_t offset = word & ~std::uint64_t{0xfff};
      if (flags == 0x10) {
        EXPECT_EQ(offset, 0u);
        return section;
      }
      if (flags == 0x04) {
        section.total = offset;
        for (std::uint64_t sum = 0; sum < offset;) {
          const auto name = in.str8().value();
          section.blocks.emplace_back(name, in.u64().value());
          sum += section.blocks.back().second;
        }
        continue;
      }
      PageRecord record;
      record.page = offset / 4096;
      record.continued = (flags & 0x20) != 0;
      if (!record.continued) name_ = in.str8().value();
      record.name = name_;
      EXPECT_FALSE(name_.empty()) << "continues nothing";
      if ((flags & ~0x20ull) == 0x02) {
        record.zero = true;
        EXPECT_EQ(in.u8().value(), 0);
      } else {
        EXPECT_EQ(flags & ~0x20ull, 0x08u);
        const auto content = in.bytes(4096).value();
        record.content.assign(content.begin(), content.end());
      }
      section.pages.push_back(std::move(record));
    }
  }

 private:
  std::string name_;
};

/// A dirty source that a test marks by hand.
class Dma final : public DirtySource {
 public:
  std::string name() const override { return "device accel0 (DMA log)"; }
  Status start() override {
    if (fail_start) return fail(Errc::device, "no log");
    ++started;
    return {};
  }
  Status sync(DirtyMemory& to, DirtySync) override {
    if (fail_sync) return fail(Errc::device, "the device does not answer");
    for (const auto page : pages)
      to.mark(Gpa{page * kPageSize}, 1);
    pages.clear();
    return {};
  }
  void stop() override { ++stopped; }

  std::vector<std::uint64_t> pages;
  bool fail_start = false;
  bool fail_sync = false;
  int started = 0;
  int stopped = 0;
};

struct Source {
  explicit Source(std::uint64_t size)
      : memory(GuestMemory::create(size).value()), ram(*memory), out(channel) {
    ram.add_dirty_source(dma);
  }
  std::byte* page(std::uint64_t index) { return memory->blocks()[0]->page(index).data(); }

  test::MemoryChannel channel;
  std::unique_ptr<GuestMemory> memory;
  Dma dma;
  RamMigration ram;
  StreamWriter out;
};

TEST(RamSaver, StartListsTheBlocks) {
  Source source(MiB);
  ASSERT_TRUE(source.ram.save_setup(source.out));
  ASSERT_TRUE(source.out.flush());
  BeReader in(source.channel.bytes);
  const auto start = Walker().next(in);
  EXPECT_EQ(start.total, MiB);
  ASSERT_EQ(start.blocks.size(), 1u);
  EXPECT_EQ(start.blocks[0], std::pair(std::string("ram0"), std::uint64_t{MiB}));
  EXPECT_TRUE(start.pages.empty());
  EXPECT_EQ(in.remaining(), 0u);
  EXPECT_EQ(source.ram.counters().bytes, source.channel.bytes.size());
}

TEST(RamSaver, FirstPassSendsEveryPageOnceInOrder) {
  Source source(MiB);
  for (const std::uint64_t page : {1, 2, 77, 255})
    std::memset(source.page(page), static_cast<int>(page), kPageSize);
  std::memset(source.page(3), 0, kPageSize);
  ASSERT_TRUE(source.ram.save_setup(source.out));
  EXPECT_EQ(source.ram.pending(false)->can_precopy, MiB);
  EXPECT_EQ(source.ram.save_iterate(source.out, kNoLimit).value(), Iterated::nothing_now);
  EXPECT_EQ(source.ram.pending(false)->can_precopy, 0u);
  ASSERT_TRUE(source.ram.save_complete(source.out));
  ASSERT_TRUE(source.out.flush());

  BeReader in(source.channel.bytes);
  Walker walker;
  walker.next(in);
  const auto part = walker.next(in);
  ASSERT_EQ(part.pages.size(), 256u);
  for (std::uint64_t i = 0; i < 256; ++i) {
    EXPECT_EQ(part.pages[i].page, i);
    EXPECT_EQ(part.pages[i].name, "ram0");
    EXPECT_EQ(part.pages[i].continued, i > 0);
    const bool normal = i == 1 || i == 2 || i == 77 || i == 255;
    EXPECT_EQ(part.pages[i].zero, !normal);
    const std::vector<std::byte> content(normal ? kPageSize : 0, static_cast<std::byte>(i));
    EXPECT_EQ(part.pages[i].content, content);
  }
  EXPECT_TRUE(walker.next(in).pages.empty());
  EXPECT_EQ(in.remaining(), 0u);
  const auto counters = source.ram.counters();
  EXPECT_EQ(counters.normal_pages, 4u);
  EXPECT_EQ(counters.zero_pages, 252u);
  EXPECT_EQ(counters.bytes, source.channel.bytes.size());
}

TEST(RamSaver, UntouchedMemoryIsNotAllocatedByReadingIt) {
  Source source(4 * MiB);
  source.page(700)[1] = std::byte{1};
  ASSERT_TRUE(source.ram.save_setup(source.out));
  ASSERT_TRUE(source.ram.save_iterate(source.out, kNoLimit));
  ASSERT_TRUE(source.ram.save_complete(source.out));
  struct stat info{};
  ASSERT_EQ(::fstat(source.memory->blocks()[0]->fd(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_blocks) * 512, kPageSize);
  EXPECT_EQ(source.ram.counters().zero_pages, 1023u);
}

// Mission C2: no item may hold up the others, and none may starve either.
TEST(RamSaver, BudgetEndsAnIterationAndOnePageAlwaysGoesOut) {
  Source source(MiB);
  for (std::uint64_t page = 0; page < 256; ++page)
    source.page(page)[0] = std::byte{1};
  ASSERT_TRUE(source.ram.save_setup(source.out));
  auto before = source.out.position();
  EXPECT_EQ(source.ram.save_iterate(source.out, {0, {}}).value(), Iterated::more);
  EXPECT_EQ(source.out.position() - before, 8 + 5 + kPageSize + 8);
  before = source.out.position();
  EXPECT_EQ(source.ram.save_iterate(source.out, {10 * kPageSize, {}}).value(), Iterated::more);
  EXPECT_GE(source.out.position() - before, 10 * kPageSize);
  EXPECT_LE(source.out.position() - before, 12 * kPageSize);
  // CONTINUE goes on over the border of sections.
  int parts = 2;
  while (source.ram.save_iterate(source.out, {10 * kPageSize, {}}).value() == Iterated::more)
    ++parts;
  ++parts;
  ASSERT_TRUE(source.out.flush());
  BeReader in(source.channel.bytes);
  Walker walker;
  walker.next(in);
  std::uint64_t pages = 0;
  for (int part = 0; part < parts; ++part)
    for (const auto& record : walker.next(in).pages) {
      EXPECT_EQ(record.page, pages);
      EXPECT_EQ(record.continued, pages > 0);
      ++pages;
    }
  EXPECT_EQ(pages, 256u);
  EXPECT_EQ(in.remaining(), 0u);
}

TEST(RamSaver, CancelEndsAnIteration) {
  Source source(MiB);
  ASSERT_TRUE(source.ram.save_setup(source.out));
  CancelSource cancel;
  cancel.cancel();
  auto result = source.ram.save_iterate(source.out, {kNoLimit.bytes, cancel.token()});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::cancelled);
}

// Mission A7: dirt is asked for during pre-copy as well as at the end.
TEST(RamSaver, OnlyAnExactQuestionSyncsAndEachSyncBeginsARound) {
  Source source(MiB);
  ASSERT_TRUE(source.ram.save_setup(source.out));
  EXPECT_EQ(source.ram.sync_count(), 1u);
  ASSERT_TRUE(source.ram.save_iterate(source.out, kNoLimit));
  source.dma.pages = {3, 4, 9, 100, 200};
  for (const auto page : source.dma.pages)
    source.page(page)[0] = std::byte{9};
  EXPECT_EQ(source.ram.pending(false)->total(), 0u);
  EXPECT_EQ(source.ram.pending(true)->can_precopy, 5 * kPageSize);
  EXPECT_EQ(source.ram.pending(true)->can_precopy, 5 * kPageSize);
  EXPECT_EQ(source.ram.save_iterate(source.out, kNoLimit).value(), Iterated::nothing_now);
  source.dma.pages = {5};
  source.page(5)[0] = std::byte{9};
  ASSERT_TRUE(source.ram.save_complete(source.out));
  ASSERT_TRUE(source.out.flush());

  BeReader in(source.channel.bytes);
  Walker walker;
  walker.next(in);
  walker.next(in);
  const auto second = walker.next(in);
  ASSERT_EQ(second.pages.size(), 5u);
  EXPECT_EQ(second.pages[0].page, 3u);
  EXPECT_EQ(second.pages[4].page, 200u);
  const auto end = walker.next(in);
  ASSERT_EQ(end.pages.size(), 1u);
  EXPECT_EQ(end.pages[0].page, 5u);

  const auto rounds = source.ram.rounds();
  ASSERT_EQ(rounds.size(), 4u);
  EXPECT_EQ(source.ram.sync_count(), 4u);
  const std::uint64_t dirty[] = {256, 5, 0, 1};
  const std::uint64_t normal[] = {0, 0, 5, 1};
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    EXPECT_EQ(rounds[i].number, i + 1);
    EXPECT_EQ(rounds[i].dirty_pages, dirty[i]);
    EXPECT_EQ(rounds[i].normal_pages, normal[i]);
    bytes += rounds[i].bytes;
  }
  EXPECT_EQ(rounds[0].zero_pages, 256u);
  EXPECT_EQ(bytes, source.channel.bytes.size());
}

TEST(RamSaver, ASyncInTheMiddleOfAPassLosesNothing) {
  Source source(MiB);
  for (std::uint64_t page = 0; page < 256; ++page)
    source.page(page)[0] = std::byte{1};
  ASSERT_TRUE(source.ram.save_setup(source.out));
  ASSERT_EQ(source.ram.save_iterate(source.out, {100 * kPageSize, {}}).value(), Iterated::more);
  source.dma.pages = {0, 255};
  source.page(0)[0] = std::byte{2};
  source.page(255)[0] = std::byte{2};
  ASSERT_TRUE(source.ram.pending(true));
  ASSERT_EQ(source.ram.save_iterate(source.out, kNoLimit).value(), Iterated::nothing_now);
  ASSERT_TRUE(source.out.flush());
  BeReader in(source.channel.bytes);
  Walker walker;
  std::map<std::uint64_t, std::byte> last;
  for (int section = 0; section < 3; ++section)
    for (const auto& record : walker.next(in).pages)
      last[record.page] = record.content.at(0);
  ASSERT_EQ(last.size(), 256u);
  EXPECT_EQ(last[0], std::byte{2});
  EXPECT_EQ(last[255], std::byte{2});
}

TEST(RamSaver, ADirtyPageThatBecameZeroIsSentAsZero) {
  Source source(MiB);
  source.page(8)[8] = std::byte{8};
  ASSERT_TRUE(source.ram.save_setup(source.out));
  ASSERT_TRUE(source.ram.save_iterate(source.out, kNoLimit));
  source.page(8)[8] = std::byte{0};
  source.dma.pages = {8};
  ASSERT_TRUE(source.ram.save_complete(source.out));
  ASSERT_TRUE(source.out.flush());
  BeReader in(source.channel.bytes);
  Walker walker;
  walker.next(in);
  walker.next(in);
  const auto end = walker.next(in);
  ASSERT_EQ(end.pages.size(), 1u);
  EXPECT_TRUE(end.pages[0].zero);
}

TEST(RamSaver, ASourceThatCannotSyncFailsTheMigrationWithItsName) {
  Source source(MiB);
  ASSERT_TRUE(source.ram.save_setup(source.out));
  source.dma.fail_sync = true;
  auto pending = source.ram.pending(true);
  ASSERT_FALSE(pending);
  EXPECT_NE(pending.error().to_string().find("accel0"), std::string::npos);
  EXPECT_FALSE(source.ram.save_complete(source.out));
}

TEST(RamSaver, ASourceThatCannotStartFailsTheSetupAndAllAreStopped) {
  Source source(MiB);
  Dma second;
  second.fail_start = true;
  source.ram.add_dirty_source(second);
  auto setup = source.ram.save_setup(source.out);
  ASSERT_FALSE(setup);
  EXPECT_NE(setup.error().to_string().find("accel0"), std::string::npos);
  source.ram.cleanup();
  EXPECT_GE(source.dma.stopped, 1);
  EXPECT_GE(second.stopped, 1);
}

TEST(RamSaver, CleanupStopsTheSourcesOnceAndKeepsTheFigures) {
  Source source(MiB);
  ASSERT_TRUE(source.ram.save_setup(source.out));
  ASSERT_TRUE(source.ram.save_complete(source.out));
  source.ram.cleanup();
  source.ram.cleanup();
  EXPECT_EQ(source.dma.started, 1);
  EXPECT_EQ(source.dma.stopped, 1);
  EXPECT_EQ(source.ram.counters().zero_pages, 256u);
  EXPECT_FALSE(source.ram.pending(true));
  // A second migration starts from the beginning.
  ASSERT_TRUE(source.ram.save_setup(source.out));
  EXPECT_EQ(source.ram.counters().zero_pages, 0u);
  EXPECT_EQ(source.ram.pending(false)->total(), MiB);
  EXPECT_EQ(source.dma.started, 2);
}

TEST(RamSaver, ARemovedSourceIsNotAsked) {
  Source source(MiB);
  source.ram.remove_dirty_source(source.dma);
  source.dma.fail_sync = true;
  ASSERT_TRUE(source.ram.save_setup(source.out));
  EXPECT_TRUE(source.ram.pending(true));
  EXPECT_EQ(source.dma.started, 0);
}

TEST(RamSaver, AChannelThatFailsFailsTheIteration) {
  Source source(8 * MiB);
  for (std::uint64_t page = 0; page < 2048; ++page)
    source.page(page)[0] = std::byte{1};
  source.channel.fail_writes = true;
  ASSERT_TRUE(source.ram.save_setup(source.out));
  auto result = source.ram.save_iterate(source.out, kNoLimit);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::closed);
}

}  // namespace
}  // namespace handover
