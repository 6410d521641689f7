// The reader, over files that are whole, cut, or lie.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>

#include "handover/base/byte_order.h"
#include "unit/memory/mapped_ram_rig.h"
#include "unit/memory/memory_channel.h"
#include "unit/memory/random_seed.h"

namespace handover {
namespace {

using test::file_at;
using test::load_mapped;
using test::MappedSource;
using test::read_whole_file;
using test::TempFolder;
using test::write_whole_file;
using testing::HasSubstr;

constexpr std::uint64_t kSize = MiB;
// START: word, name, length, header.
constexpr std::size_t kHeader = 8 + 5 + 8;
constexpr std::size_t kBitmap = kHeader + 28;

/// A saved MiB with every third page in use.
struct SavedFile {
  SavedFile() {
    for (std::uint64_t page = 0; page < kSize / kPageSize; page += 3)
      std::memset(memory->blocks()[0]->page(page).data(), static_cast<int>(page % 200 + 1), kPageSize);
    MappedSource source(*memory, file_at(path));
    EXPECT_TRUE(source.save());
  }
  /// Puts other bytes somewhere into a copy and loads that.
  Status load_changed(const std::function<void(std::string&)>& change, GuestMemory& into,
                      std::size_t threads = 0) {
    auto text = read_whole_file(path);
    change(text);
    write_whole_file(folder / "changed", text);
    RamMigration ram(into);
    return load_mapped(ram, file_at(folder / "changed"), 2, threads);
  }
  Status load_changed(const std::function<void(std::string&)>& change) {
    auto copy = GuestMemory::create(kSize).value();
    return load_changed(change, *copy);
  }

  TempFolder folder;
  std::string path = folder / "saved";
  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kSize).value();
};

void put_be64(std::string& text, std::size_t at, std::uint64_t value) {
  store_be(reinterpret_cast<std::byte*>(text.data()) + at, value);
}

TEST(MappedRamLoad, CountsWhatItReadAndWhatIsZero) {
  SavedFile saved;
  auto copy = GuestMemory::create(kSize).value();
  RamMigration ram(*copy);
  const auto status = load_mapped(ram, file_at(saved.path), 2);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(test::same_content(*saved.memory, *copy));
  EXPECT_EQ(ram.counters().normal_pages, 86u);
  EXPECT_EQ(ram.counters().zero_pages, 170u);
  EXPECT_EQ(ram.counters().bytes, kHeader + 28 + 8 + 8 + 32 + 86 * kPageSize);
}

TEST(MappedRamLoad, AbsentPagesOfFreshMemoryCostNothing) {
  TempFolder folder;
  auto memory = GuestMemory::create(64 * MiB).value();
  memory->blocks()[0]->page(5000)[0] = std::byte{1};
  {
    MappedSource source(*memory, file_at(folder / "f"));
    ASSERT_TRUE(source.save());
  }
  auto copy = GuestMemory::create(64 * MiB).value();
  RamMigration ram(*copy);
  ASSERT_TRUE(load_mapped(ram, file_at(folder / "f"), 2));
  struct stat info{};
  ASSERT_EQ(::fstat(copy->blocks()[0]->fd(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_blocks) * 512, kPageSize);
}

TEST(MappedRamLoad, AReaderTakesAnyWholePageAsTheBeginningOfThePages) {
  SavedFile saved;
  auto copy = GuestMemory::create(kSize).value();
  // The same file with its pages one page further on.
  const auto status = saved.load_changed(
      [](std::string& text) {
        put_be64(text, kHeader + 20, MiB + kPageSize);
        text.insert(MiB, kPageSize, 'g');
      },
      *copy);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(test::same_content(*saved.memory, *copy));
}

TEST(MappedRamLoad, AHeaderThatLiesIsRefused) {
  SavedFile saved;
  struct Case {
    const char* what;
    std::size_t at;
    std::uint64_t value;
    Errc code;
    const char* part;
  };
  const std::uint64_t version = std::uint64_t{2} << 32;  // and the upper half of the page size, which is 0
  const Case cases[] = {
      {"version", kHeader, version, Errc::unsupported, "version 2"},
      {"no version", kHeader, 0, Errc::unsupported, "version 0"},
      {"page size", kHeader + 4, 8192, Errc::unsupported, "8192"},
      {"page size zero", kHeader + 4, 0, Errc::unsupported, "pages of 0"},
      {"bitmap far away", kHeader + 12, UINT64_MAX, Errc::closed, "bitmap"},
      {"bitmap at the end", kHeader + 12, 2 * MiB, Errc::closed, "bitmap"},
      {"pages not aligned", kHeader + 20, MiB + 1, Errc::protocol, "multiple"},
      {"pages before the header", kHeader + 20, 0, Errc::protocol, "header ends"},
      {"pages behind the end", kHeader + 20, 2 * MiB, Errc::closed, "file ends"},
      {"pages that overflow", kHeader + 20, UINT64_MAX - kPageSize + 1, Errc::closed, "file ends"},
  };
  for (const auto& wrong : cases) {
    auto status = saved.load_changed([&](std::string& text) { put_be64(text, wrong.at, wrong.value); });
    ASSERT_FALSE(status) << wrong.what;
    EXPECT_EQ(status.error().code(), wrong.code) << wrong.what << ": " << status.error().to_string();
    EXPECT_THAT(status.error().to_string(), HasSubstr(wrong.part)) << wrong.what;
    EXPECT_THAT(status.error().to_string(), HasSubstr("ram0")) << wrong.what;
  }
}

TEST(MappedRamLoad, APageBehindTheLastIsRefused) {
  TempFolder folder;
  auto memory = GuestMemory::create(3 * kPageSize).value();
  std::memset(memory->blocks()[0]->data(), 1, 3 * kPageSize);
  {
    MappedSource source(*memory, file_at(folder / "f"));
    ASSERT_TRUE(source.save());
  }
  auto text = read_whole_file(folder / "f");
  ASSERT_EQ(text[kBitmap], 7);
  text[kBitmap] = 0x0f;
  write_whole_file(folder / "f", text);
  auto copy = GuestMemory::create(3 * kPageSize).value();
  RamMigration ram(*copy);
  auto status = load_mapped(ram, file_at(folder / "f"), 2);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("behind the last"));
}

TEST(MappedRamLoad, AnyWordButEosInTheStreamIsRefused) {
  SavedFile saved;
  for (const std::uint64_t word : {0x008u, 0x002u, 0x028u, 0x040u, 0x200u, 0x080u}) {
    auto status = saved.load_changed([&](std::string& text) { put_be64(text, 2 * MiB, word); });
    ASSERT_FALSE(status) << word;
    EXPECT_THAT(status.error().to_string(), HasSubstr("offset")) << word;
  }
}

// A torn file: refused with what is missing, wherever it ends.
TEST(MappedRamLoad, AFileThatEndsEarlyIsRefusedAtAnyLength) {
  SavedFile saved;
  std::mt19937_64 random(test::random_seed());
  const auto whole = read_whole_file(saved.path).size();
  for (int round = 0; round < 60; ++round) {
    const std::size_t length = round < 20   ? random() % (kBitmap + 40)
                               : round < 40 ? whole - 1 - random() % 20
                                            : random() % whole;
    auto status = saved.load_changed([&](std::string& text) { text.resize(length); });
    ASSERT_FALSE(status) << length;
    EXPECT_EQ(status.error().code(), Errc::closed) << length << ": " << status.error().to_string();
    EXPECT_THAT(status.error().to_string(), HasSubstr(saved.folder / "changed")) << length;
  }
}

// Random damage anywhere: an error or other content, nothing else.
TEST(MappedRamLoad, DamageNeverHarmsTheReader) {
  SavedFile saved;
  std::mt19937_64 random(test::random_seed());
  for (int round = 0; round < 200; ++round) {
    auto copy = GuestMemory::create(kSize).value();
    (void)saved.load_changed(
        [&](std::string& text) {
          for (int i = 0; i < 4; ++i)
            text[round % 2 == 0 ? random() % (kBitmap + 32) : random() % text.size()] =
                static_cast<char>(random());
        },
        *copy, random() % 3);
  }
}

TEST(MappedRamLoad, AStreamThatIsNoFileIsRefused) {
  auto memory = GuestMemory::create(kSize).value();
  RamMigration ram(*memory);
  SavedFile saved;
  const auto text = read_whole_file(saved.path);
  const auto bytes = std::as_bytes(std::span(text));
  test::MemoryChannel channel({bytes.begin(), bytes.end()});
  StreamReader in(channel);
  LoadOptions options;
  options.mapped_ram = true;
  ASSERT_TRUE(ram.load_setup(options));
  auto status = ram.load_live(in, ram.version_id());
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Errc::unsupported);
  EXPECT_THAT(status.error().to_string(), HasSubstr("file:PATH"));
  ram.cleanup();
}

// What QEMU wrote is read; its machine is another, so only its RAM section is.
TEST(MappedRamLoad, QemusOwnFileIsUnderstood) {
  const std::string sample = HANDOVER_TEST_DATA "/qemu-streams/none-512k-mapped-ram.mig";
  const auto text = read_whole_file(sample);
  const auto start = text.find("\x03ram");
  ASSERT_NE(start, std::string::npos);
  // Behind name, instance and version.
  const auto body = start + 4 + 8;
  ASSERT_EQ(load_be<std::uint64_t>(reinterpret_cast<const std::byte*>(text.data()) + body), 512 * KiB | 4);
  const auto length = static_cast<std::size_t>(text[body + 8]);
  auto copy = GuestMemory::create(512 * KiB, false, text.substr(body + 9, length)).value();
  RamMigration ram(*copy);
  const auto status = load_mapped(ram, file_at(sample, body), 1, 2);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_GT(ram.counters().normal_pages, 0u);
  for (std::uint64_t page = 0; page < 128; ++page)
    EXPECT_EQ(
        std::memcmp(copy->blocks()[0]->page(page).data(), text.data() + MiB + page * kPageSize, kPageSize), 0)
        << page;
}

}  // namespace
}  // namespace handover
