// The inspector over streams that QEMU wrote: everything that is known of them is found, and nothing may be
// missing, changed or added without being noticed.

#include <gmock/gmock.h>

#include "handover/stream/inspector.h"
#include "support/memory_channel.h"
#include "support/qemu_streams.h"

namespace handover::stream {
namespace {

using test::MemoryChannel;
using test::read_whole_file;
using test::TempFolder;
using test::to_bytes;
using test::write_whole_file;
using testing::HasSubstr;

const std::string kFolder = HANDOVER_TEST_DATA "/qemu-streams/";

Address file_address(const std::string& path, std::uint64_t offset = 0) {
  Address address;
  address.kind = Address::Kind::file;
  address.path = path;
  address.offset = offset;
  return address;
}

std::string failure(Result<StreamFacts> facts) {
  return facts ? "it was accepted" : facts.error().to_string();
}

std::string channel_failure(const std::string& bytes) {
  MemoryChannel channel(to_bytes(bytes));
  return failure(inspect_channel(channel, {.hash = true}));
}

TEST(InspectorSamples, EveryKnownFactIsFound) {
  const auto streams = test::qemu_streams(kFolder);
  EXPECT_EQ(streams.size(), 4u);
  for (const auto& stream : streams) {
    auto facts = inspect_file(file_address(stream.path), {.hash = true});
    ASSERT_TRUE(facts) << facts.error().to_string();
    std::vector<std::string> differences;
    test::find_differences(test::main_channel_facts(stream), to_json(*facts), stream.name, differences);
    EXPECT_THAT(differences, testing::IsEmpty());
    EXPECT_EQ(facts->run_state, "prelaunch");
    EXPECT_EQ(facts->length, facts->file_size);
  }
}

TEST(InspectorSamples, BytesThatComeOnlyOnceGiveTheSameFacts) {
  for (const auto& stream : test::qemu_streams(kFolder)) {
    MemoryChannel channel(to_bytes(read_whole_file(stream.path)), 1000);
    auto facts = inspect_channel(channel, {.hash = true});
    ASSERT_TRUE(facts) << facts.error().to_string();
    auto expected = test::main_channel_facts(stream);
    expected.erase("size");
    expected.erase("sha256");
    std::vector<std::string> differences;
    test::find_differences(expected, to_json(*facts), stream.name, differences);
    EXPECT_THAT(differences, testing::IsEmpty());
  }
}

TEST(InspectorSamples, StreamInsideAFileIsFoundByItsOffset) {
  TempFolder folder;
  write_whole_file(folder / "f", std::string(5000, '#') + read_whole_file(kFolder + "none-512k.mig"));
  auto facts = inspect_file(file_address(folder / "f", 5000), {});
  ASSERT_TRUE(facts) << facts.error().to_string();
  EXPECT_EQ(facts->length, 22748u);
  EXPECT_EQ(facts->vmdescription_devices, 2u);
  EXPECT_FALSE(inspect_file(file_address(folder / "f"), {}));
}

TEST(InspectorSamples, RecordsTileTheStream) {
  auto facts = inspect_file(file_address(kFolder + "none-512k.mig"), {});
  ASSERT_TRUE(facts);
  ASSERT_EQ(facts->sections.size(), 5u);
  EXPECT_EQ(facts->sections[0].offset, 0x11u);
  for (std::size_t i = 0; i < facts->sections.size(); ++i) {
    const auto& one = facts->sections[i];
    const bool named = one.header.kind == Record::section_start || one.header.kind == Record::section_full;
    const auto end = one.offset + 5 + (named ? 1 + one.header.name.size() + 8 : 0) + one.body_size + 5;
    const auto next = i + 1 < facts->sections.size() ? facts->sections[i + 1].offset : 22748 - 823 - 6;
    const bool command_between = facts->commands[0].offset == end;
    EXPECT_EQ(end + (command_between ? 5 : 0), next) << i;
  }
}

// Cut at every byte: only the end behind the EOF mark is a whole stream (one without a vmdescription).
TEST(InspectorSamples, EveryTruncationIsAnErrorWithItsOffset) {
  const std::string whole = read_whole_file(kFolder + "none-512k.mig");
  const std::size_t eof_mark = whole.size() - 823 - 6;
  for (std::size_t size = 0; size < whole.size(); size += size < 200 || size > eof_mark - 600 ? 1 : 97) {
    const std::string message = channel_failure(whole.substr(0, size));
    if (size == eof_mark + 1)
      EXPECT_EQ(message, "it was accepted");
    else
      EXPECT_THAT(message, HasSubstr("ends at offset " + std::to_string(size) + ",")) << size;
  }
}

TEST(InspectorSamples, TruncatedFileNamesFileSectionAndOffset) {
  TempFolder folder;
  write_whole_file(folder / "cut.mig", read_whole_file(kFolder + "none-512k.mig").substr(0, 20000));
  auto message = failure(inspect_file(file_address(folder / "cut.mig"), {}));
  EXPECT_THAT(message, HasSubstr(folder / "cut.mig"));
  EXPECT_THAT(message, HasSubstr("PART of section 'ram' (id 1) at offset"));
  EXPECT_THAT(message, HasSubstr("ends at offset 20000"));
}

TEST(InspectorSamples, BytesBehindTheEndAreAnError) {
  const std::string whole = read_whole_file(kFolder + "none-512k.mig");
  EXPECT_THAT(channel_failure(whole + "x"), HasSubstr("ends at offset 22748, but there are bytes behind it"));
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  auto at = text.rfind(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(InspectorSamples, DescriptionThatDoesNotFitTheBodiesIsAnError) {
  const std::string whole = read_whole_file(kFolder + "none-512k.mig");
  TempFolder folder;
  auto both = [&](const std::string& bytes) {
    write_whole_file(folder / "f", bytes);
    return std::pair(failure(inspect_file(file_address(folder / "f"), {})), channel_failure(bytes));
  };
  // The same length of text each time, so that the record itself stays sound.
  auto [file, channel] = both(replaced(whole, R"("runstate", "type": "buffer", "size": 32)",
                                       R"("runstate", "type": "buffer", "size": 42)"));
  EXPECT_THAT(file, HasSubstr("'globalstate' (id 3)"));
  EXPECT_THAT(channel, HasSubstr("104 bytes, the vmdescription has 'globalstate' instance 0 with 114 bytes"));
  std::tie(file, channel) = both(replaced(whole, R"("name": "timer", "inst)", R"("name": "tiger", "inst)"));
  EXPECT_THAT(file, HasSubstr("'tiger' instance 0 in its place"));
  EXPECT_THAT(channel, HasSubstr("'tiger'"));
  std::tie(file, channel) = both(replaced(whole, R"("devices")", R"("devides")"));
  EXPECT_THAT(file, HasSubstr("has only 0 sections"));
  EXPECT_THAT(channel, HasSubstr("2 full sections, the vmdescription 0"));
  std::tie(file, channel) = both(replaced(whole, R"("page_size": 4096)", R"("page_size" 54096)"));
  EXPECT_THAT(file, HasSubstr("no proper JSON"));
  EXPECT_THAT(channel, HasSubstr("no proper JSON"));
}

TEST(InspectorSamples, MoreRamThanMayBeHashedIsRefusedBeforeItIsAllocated) {
  const auto address = file_address(kFolder + "none-512k.mig");
  auto refused = inspect_file(address, {.hash = true, .max_hashed_ram = 524287});
  EXPECT_THAT(failure(refused), HasSubstr("524288 bytes of RAM at offset"));
  EXPECT_TRUE(inspect_file(address, {.hash = true, .max_hashed_ram = 524288}));
  EXPECT_TRUE(inspect_file(address, {.hash = false, .max_hashed_ram = 1}));
}

TEST(InspectorSamples, WhatIsNoStreamIsSaid) {
  TempFolder folder;
  write_whole_file(folder / "empty", "");
  write_whole_file(folder / "text", "hello, world");
  EXPECT_THAT(failure(inspect_file(file_address(folder / "empty"), {})), HasSubstr("ends at offset 0"));
  EXPECT_THAT(failure(inspect_file(file_address(folder / "text"), {})), HasSubstr("no migration stream"));
  EXPECT_THAT(failure(inspect_file(file_address(folder / "missing"), {})), HasSubstr("No such file"));
  EXPECT_THAT(failure(inspect_file(file_address(folder / "."), {})), HasSubstr("is a directory"));
}

}  // namespace
}  // namespace handover::stream
