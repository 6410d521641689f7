// The writer, by the bytes of its file.
#include "handover/memory/mapped_ram_file.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "handover/base/byte_order.h"
#include "handover/memory/guest_race.h"
#include "unit/memory/mapped_ram_rig.h"
#include "unit/memory/random_seed.h"

namespace handover {
namespace {

using test::file_at;
using test::MappedSource;
using test::read_whole_file;
using test::TempFolder;
using testing::HasSubstr;

constexpr std::uint64_t kAlign = 0x100000;

std::uint64_t be64_at(const std::string& text, std::uint64_t at) {
  return load_be<std::uint64_t>(reinterpret_cast<const std::byte*>(text.data()) + at);
}
std::uint32_t be32_at(const std::string& text, std::uint64_t at) {
  return load_be<std::uint32_t>(reinterpret_cast<const std::byte*>(text.data()) + at);
}

struct Saved {
  explicit Saved(std::uint64_t size = MiB) : memory(GuestMemory::create(size).value()) {}
  std::byte* page(std::uint64_t index) { return memory->blocks()[0]->page(index).data(); }
  /// As the guest does it: the page is dirty afterwards.
  void write(std::uint64_t page, std::byte value) {
    const std::vector<std::byte> content(kPageSize, value);
    ASSERT_TRUE(memory->write(Gpa{page * kPageSize}, content));
  }
  std::string path() { return folder / "ram"; }

  TempFolder folder;
  std::unique_ptr<GuestMemory> memory;
};

TEST(MappedRamFile, HasQemusLayoutByteByByte) {
  Saved saved(MiB);  // 256 pages
  std::memset(saved.page(0), 0x11, kPageSize);
  std::memset(saved.page(9), 0x22, kPageSize);
  std::memset(saved.page(255), 0x33, kPageSize);
  {
    MappedSource source(*saved.memory, file_at(saved.path()));
    ASSERT_TRUE(source.save());
    const auto counters = source.sink->counters();
    EXPECT_EQ(counters.normal_pages, 3u);
    EXPECT_EQ(counters.zero_pages, 253u);
    EXPECT_EQ(counters.bytes, 3 * kPageSize + 32);
  }
  const auto file = read_whole_file(saved.path());
  std::size_t at = 0;
  EXPECT_EQ(be64_at(file, at), MiB | 0x004u);
  at += 8;
  EXPECT_EQ(file[at], 4);
  EXPECT_EQ(file.substr(at + 1, 4), "ram0");
  at += 5;
  EXPECT_EQ(be64_at(file, at), MiB);
  at += 8;
  EXPECT_EQ(be32_at(file, at), 1u);  // version
  EXPECT_EQ(be64_at(file, at + 4), kPageSize);
  EXPECT_EQ(be64_at(file, at + 12), at + 28);  // the bitmap directly behind the header
  EXPECT_EQ(be64_at(file, at + 20), kAlign);
  at += 28;
  std::string bitmap(32, '\0');
  bitmap[0] = 0x01;  // page 0
  bitmap[1] = 0x02;  // page 9
  bitmap[31] = static_cast<char>(0x80);
  EXPECT_EQ(file.substr(at, 32), bitmap);
  at += 32;
  EXPECT_TRUE(std::ranges::all_of(file.substr(at, kAlign - at), [](char c) { return c == 0; }));
  std::string pages(MiB, '\0');
  std::fill_n(pages.begin(), kPageSize, 0x11);
  std::fill_n(pages.begin() + 9 * kPageSize, kPageSize, 0x22);
  std::fill_n(pages.begin() + 255 * kPageSize, kPageSize, 0x33);
  EXPECT_TRUE(file.substr(kAlign, MiB) == pages);
  at = kAlign + MiB;
  EXPECT_EQ(be64_at(file, at), 0x010u);  // EOS of START
  EXPECT_EQ(be64_at(file, at + 8), 0x010u);
  EXPECT_EQ(file.size(), at + 16);
}

TEST(MappedRamFile, ZeroPagesAreHoles) {
  Saved saved(16 * MiB);
  std::memset(saved.page(100), 1, kPageSize);
  std::memset(saved.page(200), 0, kPageSize);  // there, and zero all the same
  {
    MappedSource source(*saved.memory, file_at(saved.path()));
    ASSERT_TRUE(source.save());
  }
  struct stat info{};
  ASSERT_EQ(::stat(saved.path().c_str(), &info), 0);
  EXPECT_GT(info.st_size, static_cast<off_t>(16 * MiB));
  EXPECT_LT(info.st_blocks * 512, static_cast<blkcnt_t>(256 * KiB));
  ASSERT_EQ(::fstat(saved.memory->blocks()[0]->fd(), &info), 0);
  EXPECT_LE(info.st_blocks * 512, static_cast<blkcnt_t>(2 * kPageSize))
      << "reading made the host give memory";
}

TEST(MappedRamFile, APageThatBecomesZeroIsTakenOut) {
  Saved saved;
  saved.write(3, std::byte{7});
  saved.write(4, std::byte{8});
  {
    MappedSource source(*saved.memory, file_at(saved.path()));
    ASSERT_TRUE(source.setup());
    ASSERT_TRUE(source.iterate());
    saved.write(3, std::byte{0});
    saved.write(5, std::byte{9});
    ASSERT_TRUE(source.complete());
  }
  const auto file = read_whole_file(saved.path());
  const auto bitmap = file.substr(8 + 5 + 8 + 28, 32);
  EXPECT_EQ(bitmap[0], 0x30);
  EXPECT_EQ(file[kAlign + 3 * kPageSize], 0) << "what was there before is gone too";
  EXPECT_EQ(file[kAlign + 4 * kPageSize], 8);
  EXPECT_EQ(file[kAlign + 5 * kPageSize], 9);
  auto copy = GuestMemory::create(MiB).value();
  RamMigration loaded(*copy);
  const auto status = test::load_mapped(loaded, file_at(saved.path()), 3);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(test::same_content(*saved.memory, *copy));
}

// Places count from the file's first byte, and what is before the stream stays.
TEST(MappedRamFile, InsideAnotherFileThePositionsAreAbsolute) {
  Saved saved;
  std::memset(saved.page(1), 0x44, kPageSize);
  const std::string before(12345, 'x');
  test::write_whole_file(saved.path(), before + "OLD");
  {
    MappedSource source(*saved.memory, file_at(saved.path(), before.size()));
    ASSERT_TRUE(source.save());
  }
  const auto file = read_whole_file(saved.path());
  EXPECT_EQ(file.substr(0, before.size()), before);
  const auto header = before.size() + 8 + 5 + 8;
  EXPECT_EQ(be64_at(file, header + 12), header + 28);
  EXPECT_EQ(be64_at(file, header + 20), kAlign);
  EXPECT_EQ(file[kAlign + kPageSize], 0x44);
  auto copy = GuestMemory::create(MiB).value();
  RamMigration loaded(*copy);
  const auto status = test::load_mapped(loaded, file_at(saved.path(), before.size()), 2);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(test::same_content(*saved.memory, *copy));
}

TEST(MappedRamFile, ALiveGuestArrivesWholeWhoeverWrites) {
  const auto seed = test::random_seed();
  for (const std::size_t threads : {0, 1, 3})
    for (const bool direct : {false, true}) {
      Saved saved(8 * MiB);
      std::mt19937_64 filler(seed);
      for (std::uint64_t page = 0; page < 2048; page += 1 + filler() % 5)
        std::memset(saved.page(page), static_cast<int>(filler() % 256), kPageSize);
      std::atomic<bool> stop{false};
      std::jthread guest([&] {
        std::mt19937_64 random(seed + 1);
        std::vector<std::byte> bytes(5000);
        while (!stop) {
          std::ranges::fill(bytes, static_cast<std::byte>(random() % 3 == 0 ? 0 : random()));
          saved.memory->write(Gpa{random() % (8 * MiB - bytes.size())}, bytes);
          std::this_thread::yield();
        }
      });
      int sections = 0;
      {
        MappedSource source(*saved.memory, file_at(saved.path()), {.threads = threads, .direct_io = direct});
        ASSERT_TRUE(source.setup());
        std::mt19937_64 random(seed + 2);
        for (sections = 1; sections < (direct ? 12 : 40); ++sections) {
          ASSERT_TRUE(source.iterate(random() % (2 * MiB)));
          if (sections % 3 == 0) {
            ASSERT_TRUE(source.sync());
          }
        }
        stop = true;
        guest.join();
        ASSERT_TRUE(source.complete());
        ++sections;
        EXPECT_GT(source.ram.sync_count(), 3u);
        EXPECT_EQ(source.ram.counters().normal_pages, source.sink->counters().normal_pages);
      }
      auto copy = GuestMemory::create(8 * MiB).value();
      std::memset(copy->blocks()[0]->data(), 0x5a, 3 * MiB);  // which must give way
      RamMigration loaded(*copy);
      const auto status = test::load_mapped(loaded, file_at(saved.path()), sections, threads, direct);
      ASSERT_TRUE(status) << status.error().to_string();
      EXPECT_TRUE(test::same_content(*saved.memory, *copy))
          << threads << " threads, direct " << direct << ", seed " << seed;
      EXPECT_EQ(loaded.counters().normal_pages + loaded.counters().zero_pages, 2048u);
      EXPECT_FALSE(saved.memory->logging());
    }
}

/// A limit on the size of this process's files, which the system reports like a full disk.
class SizeLimit {
 public:
  explicit SizeLimit(std::uint64_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(MappedRamFile, AFailingWriteNamesTheFileAndStaysFailed) {
  for (const std::size_t threads : {0, 2}) {
    Saved saved(16 * MiB);
    std::memset(saved.page(0), 1, 16 * MiB);
    const SizeLimit limit(4 * MiB);
    MappedSource source(*saved.memory, file_at(saved.path()), {.threads = threads});
    ASSERT_TRUE(source.setup());
    auto complete = source.complete();
    ASSERT_FALSE(complete) << threads;
    EXPECT_EQ(complete.error().sys_errno(), EFBIG);
    EXPECT_THAT(complete.error().to_string(), HasSubstr(saved.path()));
    EXPECT_THAT(complete.error().to_string(), HasSubstr("ram0"));
    EXPECT_FALSE(source.sink->barrier(source.out));
    EXPECT_FALSE(source.sink->send(*saved.memory->blocks()[0], {0, 1}, PageSink::Content::unknown, {}));
  }
}

TEST(MappedRamFile, ACancelEndsEveryWait) {
  Saved saved(4 * MiB);
  std::memset(saved.page(0), 1, 4 * MiB);
  CancelSource cancel;
  MappedSource source(*saved.memory, file_at(saved.path()), {.threads = 1, .cancel = cancel.token()});
  ASSERT_TRUE(source.setup());
  cancel.cancel("enough");
  auto complete = source.complete();
  ASSERT_FALSE(complete);
  EXPECT_EQ(complete.error().code(), Errc::cancelled);
}

TEST(MappedRamFile, NeedsARegularFile) {
  auto channel = connect_channel(file_at("/dev/null"), {});
  ASSERT_TRUE(channel);
  auto made = MappedRamFile::create(**channel, {});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Errc::unsupported);
  EXPECT_THAT(made.error().to_string(), HasSubstr("/dev/null"));
}

}  // namespace
}  // namespace handover
