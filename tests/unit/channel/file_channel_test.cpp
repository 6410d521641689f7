#include <gmock/gmock.h>
#include <sys/stat.h>

#include "handover/channel/channel.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"

namespace handover {
namespace {

using test::read_whole_file;
using test::TempFolder;
using test::to_bytes;
using test::write_whole_file;
using testing::HasSubstr;

Address file_address(const std::string& path, std::uint64_t offset = 0) {
  Address address;
  address.kind = Address::Kind::file;
  address.path = path;
  address.offset = offset;
  return address;
}

std::string read_rest(Channel& channel) {
  std::string text;
  std::byte buffer[5];
  for (;;) {
    auto got = channel.read_some(buffer);
    if (!got) return "error: " + got.error().to_string();
    if (*got == 0) return text;
    text.append(reinterpret_cast<const char*>(buffer), *got);
  }
}

TEST(FileChannel, WritingCreatesAFileForItsOwnerAlone) {
  TempFolder folder;
  auto channel = connect_channel(file_address(folder / "new"), {});
  ASSERT_TRUE(channel) << channel.error().to_string();
  ASSERT_TRUE((*channel)->write_all(to_bytes("state")));
  ASSERT_TRUE((*channel)->commit());
  EXPECT_EQ(read_whole_file(folder / "new"), "state");
  struct stat info{};
  ASSERT_EQ(::stat((folder / "new").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(FileChannel, WritingKeepsWhatIsBeforeTheOffsetAndCutsTheRest) {
  TempFolder folder;
  write_whole_file(folder / "f", "headerOLDOLDOLDOLD");
  auto channel = connect_channel(file_address(folder / "f", 6), {});
  ASSERT_TRUE(channel);
  ASSERT_TRUE((*channel)->write_all(to_bytes("new")));
  EXPECT_EQ(read_whole_file(folder / "f"), "headernew");
}

TEST(FileChannel, ReadingBeginsAtTheOffsetAndEndsWithTheFile) {
  TempFolder folder;
  write_whole_file(folder / "f", "0123456789");
  auto listener = listen_on(file_address(folder / "f", 4));
  ASSERT_TRUE(listener);
  auto channel = (*listener)->accept({});
  ASSERT_TRUE(channel);
  EXPECT_EQ(read_rest(**channel), "456789");
}

TEST(FileChannel, SkippingStopsAtTheEnd) {
  TempFolder folder;
  write_whole_file(folder / "f", "0123456789");
  auto listener = listen_on(file_address(folder / "f"));
  ASSERT_TRUE(listener);
  auto channel = (*listener)->accept({});
  ASSERT_TRUE(channel);
  EXPECT_EQ((*channel)->skip_some(7).value(), 7u);
  EXPECT_EQ((*channel)->skip_some(7).value(), 3u);
  EXPECT_EQ((*channel)->skip_some(7).value(), 0u);
  EXPECT_EQ(read_rest(**channel), "");
}

TEST(FileChannel, WhatCannotBeOpenedIsNamed) {
  TempFolder folder;
  write_whole_file(folder / "short", "x");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  const std::pair<Address, const char*> cases[] = {
      {file_address(folder / "missing"), "No such file"},
      {file_address(folder / "."), "is a directory"},
      {file_address(folder / "short", 2), "behind its end"},
      {file_address(folder / "fifo"), "is not a file"},
  };
  for (const auto& [address, part] : cases) {
    auto listener = listen_on(address);
    ASSERT_FALSE(listener) << address.path;
    EXPECT_THAT(listener.error().to_string(), HasSubstr(part));
    EXPECT_THAT(listener.error().to_string(), HasSubstr(address.path));
  }
  EXPECT_FALSE(connect_channel(file_address(folder / "no/such/folder"), {}));
  EXPECT_FALSE(connect_channel(file_address(folder / "fifo"), {}));
}

TEST(FileChannel, FullDiskIsAnErrorOfTheWrite) {
  auto channel = connect_channel(file_address("/dev/full"), {});
  ASSERT_TRUE(channel) << channel.error().to_string();
  auto status = (*channel)->write_all(to_bytes("x"));
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("No space left"));
}

TEST(FileChannel, AfterShutdownEveryCallIsCancelled) {
  TempFolder folder;
  auto channel = connect_channel(file_address(folder / "f"), {});
  ASSERT_TRUE(channel);
  (*channel)->shutdown();
  EXPECT_EQ((*channel)->write_all(to_bytes("x")).error().code(), Errc::cancelled);
  EXPECT_EQ((*channel)->commit().error().code(), Errc::cancelled);
}

}  // namespace
}  // namespace handover
