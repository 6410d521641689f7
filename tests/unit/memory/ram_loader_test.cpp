#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "handover/base/byte_writer.h"
#include "handover/memory/ram_migration.h"
#include "unit/memory/memory_channel.h"

namespace handover {
namespace {

constexpr std::uint64_t kZero = 0x02, kMemSize = 0x04, kPage = 0x08, kEos = 0x10, kContinue = 0x20;

/// Writes records by hand.
struct Bytes : BeWriter {
  Bytes& word(std::uint64_t value) {
    u64(value);
    return *this;
  }
  Bytes& name(std::string_view text_part) {
    u8(static_cast<std::uint8_t>(text_part.size()));
    text(text_part);
    return *this;
  }
  Bytes& byte(std::uint8_t value) {
    u8(value);
    return *this;
  }
  Bytes& fill(std::uint8_t value, std::size_t count = kPageSize) {
    for (std::size_t i = 0; i < count; ++i)
      u8(value);
    return *this;
  }
  Bytes& list(std::uint64_t size = MiB) { return word(size | kMemSize).name("ram0").word(size); }
  Bytes& start() { return list().word(kEos); }
};

class RamLoader : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(ram_.load_setup()); }
  /// Loads `sections` bodies.
  Status load(Bytes& bytes, int sections = 1, std::size_t chunk = 1 << 20) {
    test::MemoryChannel channel(bytes.take(), chunk);
    StreamReader in(channel);
    for (int i = 0; i < sections; ++i)
      HANDOVER_TRY(ram_.load_live(in, 4));
    return {};
  }
  std::byte* page(std::uint64_t index) { return memory_->blocks()[0]->page(index).data(); }
  bool page_is(std::uint64_t index, int value) {
    const std::vector<std::byte> expected(kPageSize, static_cast<std::byte>(value));
    return std::memcmp(page(index), expected.data(), kPageSize) == 0;
  }
  std::uint64_t allocated() {
    struct stat info{};
    EXPECT_EQ(::fstat(memory_->blocks()[0]->fd(), &info), 0);
    return static_cast<std::uint64_t>(info.st_blocks) * 512;
  }

  std::unique_ptr<GuestMemory> memory_ = GuestMemory::create(MiB).value();
  RamMigration ram_{*memory_};
};

TEST_F(RamLoader, LoadsPagesOverSectionsAndKeepsTheBlock) {
  Bytes bytes;
  bytes.start();
  bytes.word(7 * kPageSize | kPage).name("ram0").fill(0x77).word(kEos);
  bytes.word(8 * kPageSize | kPage | kContinue).fill(0x88);
  bytes.word(7 * kPageSize | kPage | kContinue).fill(0x11);
  bytes.word(9 * kPageSize | kZero | kContinue).byte(0).word(kEos);
  const std::uint64_t size = bytes.size();
  const auto status = load(bytes, 3);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_TRUE(page_is(7, 0x11));
  EXPECT_TRUE(page_is(8, 0x88));
  EXPECT_TRUE(page_is(9, 0));
  const auto counters = ram_.counters();
  EXPECT_EQ(counters.normal_pages, 3u);
  EXPECT_EQ(counters.zero_pages, 1u);
  EXPECT_EQ(counters.bytes, size);
}

// The reader may hand over any number of bytes at a time; the pages must come out the same.
TEST_F(RamLoader, LoadsTheSameHoweverTheBytesArrive) {
  for (const std::size_t chunk : {1, 7, 8, 4096, 4104, 5000, 12312, 100000}) {
    memory_ = GuestMemory::create(MiB).value();
    RamMigration ram(*memory_);
    ASSERT_TRUE(ram.load_setup());
    Bytes bytes;
    bytes.start();
    bytes.word(kPage).name("ram0").fill(1);
    for (std::uint64_t i = 1; i < 40; ++i)
      bytes.word(i * kPageSize | kPage | kContinue).fill(static_cast<std::uint8_t>(i + 1));
    // A jump, a page again, a zero page among others, and the last page of the block.
    bytes.word(60 * kPageSize | kPage | kContinue).fill(0x60);
    bytes.word(5 * kPageSize | kPage | kContinue).fill(0x55);
    bytes.word(6 * kPageSize | kZero | kContinue).byte(0);
    bytes.word(61 * kPageSize | kZero | kContinue).byte(0);
    bytes.word(254 * kPageSize | kPage | kContinue).fill(0xfe);
    bytes.word(255 * kPageSize | kPage | kContinue).fill(0xff);
    bytes.word(kEos);
    test::MemoryChannel channel(bytes.take(), chunk);
    StreamReader in(channel);
    for (int section = 0; section < 2; ++section) {
      const auto status = ram.load_live(in, 4);
      ASSERT_TRUE(status) << status.error().to_string();
    }
    EXPECT_TRUE(in.at_end().value());
    for (std::uint64_t i = 0; i < 40; ++i)
      EXPECT_TRUE(page_is(i, i == 5   ? 0x55
                             : i == 6 ? 0
                                      : static_cast<int>(i + 1)))
          << i << " chunk " << chunk;
    EXPECT_TRUE(page_is(60, 0x60));
    EXPECT_TRUE(page_is(61, 0));
    EXPECT_TRUE(page_is(254, 0xfe));
    EXPECT_TRUE(page_is(255, 0xff));
    EXPECT_EQ(ram.counters().normal_pages, 44u);
  }
}

TEST_F(RamLoader, ZeroPagesCostAFreshDestinationNothing) {
  Bytes bytes;
  bytes.start();
  bytes.word(kZero).name("ram0").byte(0);
  for (std::uint64_t i = 1; i < 256; ++i)
    bytes.word(i * kPageSize | kZero | kContinue).byte(0);
  bytes.word(kEos);
  ASSERT_TRUE(load(bytes, 2));
  EXPECT_EQ(ram_.counters().zero_pages, 256u);
  EXPECT_EQ(allocated(), 0u);
}

TEST_F(RamLoader, ZeroPagesReplaceWhatWasThereBefore) {
  std::memset(page(3), 0x33, kPageSize);
  std::memset(page(200), 0x44, kPageSize);
  ASSERT_TRUE(ram_.load_setup());
  Bytes bytes;
  bytes.start();
  bytes.word(3 * kPageSize | kZero).name("ram0").byte(0).word(kEos);
  ASSERT_TRUE(load(bytes, 2));
  EXPECT_TRUE(page_is(3, 0));
  EXPECT_TRUE(page_is(200, 0x44));
}

TEST_F(RamLoader, AZeroPageAfterANormalOneWins) {
  Bytes bytes;
  bytes.start();
  bytes.word(kPage).name("ram0").fill(0x33).word(kZero | kContinue).byte(0).word(kEos);
  ASSERT_TRUE(load(bytes, 2));
  EXPECT_TRUE(page_is(0, 0));
}

TEST_F(RamLoader, AnotherVersionIsRefused) {
  Bytes bytes;
  bytes.start();
  test::MemoryChannel channel(bytes.take());
  StreamReader in(channel);
  for (const std::uint32_t version : {0u, 3u, 5u})
    EXPECT_FALSE(ram_.load_live(in, version)) << version;
}

TEST_F(RamLoader, SetupComesFirst) {
  ram_.cleanup();
  ram_.cleanup();
  Bytes bytes;
  bytes.start();
  const auto status = load(bytes);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Errc::state);
}

struct BadStream {
  const char* what;
  Bytes bytes;
  Errc code;
  const char* says;
  int sections = 1;
};

std::vector<BadStream> bad_streams() {
  std::vector<BadStream> all;
  const auto add = [&](const char* what, Bytes& bytes, Errc code, const char* says, int sections = 1) {
    all.push_back({what, bytes, code, says, sections});
  };
  add("end at once", Bytes().fill(0, 3), Errc::closed, "offset 3");
  add("end after a word", Bytes().word(MiB | kMemSize), Errc::closed, "offset 8");
  add("end in a page", Bytes().start().word(kPage).name("ram0").fill(1, 4095), Errc::closed, "", 2);
  add("end after a page", Bytes().start().word(kPage).name("ram0").fill(1), Errc::closed, "", 2);
  add("unknown block", Bytes().word(MiB | kMemSize).name("pc.ram").word(MiB), Errc::mismatch, "`ram0`");
  add("other length", Bytes().word(2 * GiB | kMemSize).name("ram0").word(2 * GiB), Errc::mismatch,
      "RAM block `ram0` is 1 MiB here and 2 GiB in the stream; start the destination with --memory 2G");
  add("length 0", Bytes().word(MiB | kMemSize).name("ram0").word(0), Errc::mismatch, "0 bytes");
  add("odd length", Bytes().word(MiB | kMemSize).name("ram0").word(1000), Errc::mismatch, "--memory 1000");
  add("more than the total", Bytes().word(kPageSize | kMemSize).name("ram0").word(MiB), Errc::protocol,
      "4 KiB");
  add("total is more", Bytes().word(2 * MiB | kMemSize).name("ram0").word(MiB).name("ram0").word(MiB),
      Errc::protocol, "again");
  add("enormous total", Bytes().word(~std::uint64_t{0xfff} | kMemSize).name("ram0").word(MiB), Errc::closed,
      "");
  add("second list", Bytes().list().list().word(kEos), Errc::protocol, "second list");
  add("second list later", Bytes().start().start(), Errc::protocol, "second list", 2);
  add("page before the list", Bytes().word(kPage).name("ram0").fill(1).word(kEos), Errc::protocol,
      "before the list");
  add("unlisted block", Bytes().word(kMemSize).word(kPage).name("ram0").fill(1), Errc::protocol,
      "not listed");
  add("page of an unknown block", Bytes().start().word(kPage).name("ram7").fill(1), Errc::mismatch, "`ram7`",
      2);
  add("continues nothing", Bytes().start().word(kPage | kContinue).fill(1), Errc::protocol, "continues", 2);
  add("zero page continues nothing", Bytes().start().word(kZero | kContinue).byte(0), Errc::protocol,
      "continues", 2);
  add("page beyond the end", Bytes().start().word(MiB | kPage).name("ram0").fill(1), Errc::protocol,
      "outside", 2);
  add("zero page beyond the end", Bytes().start().word(~std::uint64_t{0xfff} | kZero).name("ram0").byte(0),
      Errc::protocol, "outside", 2);
  add("zero page of ones", Bytes().start().word(kZero).name("ram0").byte(1), Errc::protocol, "0x01", 2);
  add("no flag", Bytes().start().word(0x5000), Errc::protocol, "stream offset 29", 2);
  add("two kinds", Bytes().start().word(kPage | kZero).name("ram0"), Errc::protocol, "stream offset 29", 2);
  add("list and page", Bytes().word(MiB | kMemSize | kPage), Errc::protocol, "stream offset 0");
  add("list that continues", Bytes().word(MiB | kMemSize | kContinue), Errc::protocol, "stream offset 0");
  add("end that continues", Bytes().start().word(kEos | kContinue), Errc::protocol, "stream offset 29", 2);
  add("end with an address", Bytes().start().word(kPageSize | kEos), Errc::protocol, "stream offset 29", 2);
  add("unknown flag", Bytes().start().word(0x800 | kPage), Errc::protocol, "0x808", 2);
  add("xbzrle", Bytes().start().word(0x40).name("ram0"), Errc::unsupported, "xbzrle", 2);
  add("multifd", Bytes().list().word(0x200), Errc::protocol, "multifd");
  add("rdma", Bytes().start().word(0x80), Errc::unsupported, "RDMA", 2);
  add("obsolete", Bytes().start().word(0x100).name("ram0"), Errc::unsupported, "obsolete", 2);
  return all;
}

TEST_F(RamLoader, MalformedStreamsEndInAnErrorThatSaysWhere) {
  for (auto& bad : bad_streams()) {
    SCOPED_TRACE(bad.what);
    ASSERT_TRUE(ram_.load_setup());
    const auto status = load(bad.bytes, bad.sections);
    if (status) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    const auto text = status.error().to_string();
    EXPECT_EQ(status.error().code(), bad.code) << text;
    EXPECT_NE(text.find(bad.says), std::string::npos) << text;
  }
}

TEST_F(RamLoader, AMachineWithoutRamIsFine) {
  Bytes bytes;
  bytes.word(kMemSize).word(kEos).word(kEos);
  EXPECT_TRUE(load(bytes, 2));
}

std::string sha256(std::span<const std::byte> bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EXPECT_EQ(EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr), 1);
  std::string text;
  for (unsigned i = 0; i < size; ++i)
    text += fmt::format("{:02x}", digest[i]);
  return text;
}

// QEMU 11.1 wrote this file; its block m0 of 512 KiB is known by its digest.
TEST(RamLoaderInterop, LoadsTheRamThatQemuWrote) {
  std::ifstream file(HANDOVER_TEST_DATA "/qemu-streams/none-512k.mig", std::ios::binary);
  ASSERT_TRUE(file);
  const std::string raw((std::istreambuf_iterator<char>(file)), {});
  const auto all = std::as_bytes(std::span(raw));
  test::MemoryChannel channel({all.begin(), all.end()});
  StreamReader in(channel);
  auto memory = GuestMemory::create(512 * KiB, false, "m0").value();
  RamMigration ram(*memory);
  ASSERT_TRUE(ram.load_setup());

  // Header, configuration "none", START of section 1 `ram`.
  ASSERT_TRUE(in.skip(8 + 1 + 4 + 4 + 1 + 4));
  ASSERT_EQ(in.str8().value(), "ram");
  ASSERT_EQ(in.be32().value(), 0u);
  ASSERT_EQ(in.be32().value(), 4u);
  auto status = ram.load_live(in, 4);
  ASSERT_TRUE(status) << status.error().to_string();
  ASSERT_TRUE(in.skip(5));                            // footer
  while (in.peek(1).value()[0] == std::byte{0x02}) {  // PART
    ASSERT_TRUE(in.skip(5));
    status = ram.load_live(in, 4);
    ASSERT_TRUE(status) << status.error().to_string();
    ASSERT_TRUE(in.skip(5));
  }
  ASSERT_TRUE(in.skip(5));  // COMMAND SWITCHOVER_START
  ASSERT_EQ(in.u8().value(), 0x03);
  ASSERT_TRUE(in.skip(4));
  status = ram.load_live(in, 4);
  ASSERT_TRUE(status) << status.error().to_string();

  const auto& block = *memory->blocks()[0];
  EXPECT_EQ(sha256({block.data(), block.size()}),
            "a07d6dc4e97506924621b9a6fc650d8449f67170517905b739cc7867d59bc607");
  EXPECT_EQ(ram.counters().normal_pages, 5u);
  EXPECT_EQ(ram.counters().zero_pages, 123u);
}

}  // namespace
}  // namespace handover
