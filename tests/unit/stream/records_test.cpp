#include <gmock/gmock.h>
#include <rapidcheck/gtest.h>

#include "handover/stream/command.h"
#include "handover/stream/configuration.h"
#include "handover/stream/section.h"
#include "support/memory_channel.h"

namespace handover::stream {
namespace {

using test::MemoryChannel;
using test::to_bytes;
using testing::HasSubstr;

template <class Write>
std::vector<std::byte> written(Write write) {
  MemoryChannel channel;
  StreamWriter out(channel);
  write(out);
  EXPECT_TRUE(out.flush());
  return channel.output;
}

/// The message with which `read` fails on these bytes.
template <class Read>
std::string failure(std::vector<std::byte> bytes, Read read) {
  MemoryChannel channel(std::move(bytes));
  StreamReader in(channel);
  auto result = read(in);
  return result ? "it was accepted" : result.error().to_string();
}

std::vector<std::byte> raw(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int value : values)
    bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(SectionHeader, StartAndFullCarryTheirNamesPartAndEndOnlyTheId) {
  for (Record kind :
       {Record::section_start, Record::section_part, Record::section_end, Record::section_full}) {
    const SectionHeader header{kind, 7, "0000:00:01.0/vfio", 3, 1};
    MemoryChannel channel(written([&](StreamWriter& out) { write_section_header(out, header); }));
    StreamReader in(channel);
    ASSERT_EQ(read_record(in).value(), kind);
    auto got = read_section_header(in, kind);
    ASSERT_TRUE(got);
    const bool named = kind == Record::section_start || kind == Record::section_full;
    EXPECT_EQ(got->id, 7u);
    EXPECT_EQ(got->name, named ? header.name : "");
    EXPECT_EQ(got->instance, named ? 3u : 0u);
    EXPECT_EQ(got->version, named ? 1u : 0u);
    EXPECT_TRUE(in.at_end().value());
  }
}

TEST(SectionHeader, UnknownRecordTypesAreRefusedWithTheirOffset) {
  for (int type : {0x05, 0x06, 0x07, 0x09, 0x7e, 0xff})
    EXPECT_THAT(failure(raw({type}), [](StreamReader& in) { return read_record(in); }),
                HasSubstr(fmt::format("byte {:#04x}, at offset 0", type)));
}

TEST(SectionFooter, MissingAndForeignFootersAreRefused) {
  const SectionHeader header{Record::section_full, 7, "timer", 0, 2};
  auto read = [&](StreamReader& in) { return read_section_footer(in, header); };
  EXPECT_THAT(failure(raw({0x7e, 0, 0, 0, 7}), read), HasSubstr("accepted"));
  EXPECT_THAT(failure(raw({0x7e, 0, 0, 0, 8}), read), HasSubstr("'timer'"));
  EXPECT_THAT(failure(raw({0x7e, 0, 0, 0, 8}), read), HasSubstr("footer of section 8"));
  EXPECT_THAT(failure(raw({0x7d, 0, 0, 0, 7}), read), HasSubstr("0x7d at offset 0"));
  EXPECT_THAT(failure(raw({0x7e, 0}), read), HasSubstr("in the footer of section 'timer'"));
}

TEST(Command, EveryCommandIsReadBack) {
  const std::vector<std::byte> advise(16), discard(300);
  const std::pair<Command, std::vector<std::byte>> cases[] = {
      {Command::open_return_path, {}},          {Command::ping, raw({0, 0, 0, 0x42})},
      {Command::postcopy_advise, {}},           {Command::postcopy_advise, advise},
      {Command::postcopy_listen, {}},           {Command::postcopy_run, {}},
      {Command::postcopy_ram_discard, discard}, {Command::packaged, raw({0, 0, 1, 0})},
      {Command::postcopy_resume, {}},           {Command::recv_bitmap, discard},
      {Command::switchover_start, {}}};
  for (const auto& [command, payload] : cases) {
    MemoryChannel channel(written([&](StreamWriter& out) { write_command(out, command, payload); }));
    StreamReader in(channel);
    ASSERT_EQ(read_record(in).value(), Record::command);
    auto got = read_command(in);
    ASSERT_TRUE(got) << got.error().to_string();
    EXPECT_EQ(got->command, command);
    EXPECT_EQ(got->payload, payload);
    EXPECT_NE(command_name(command), "unknown");
  }
}

TEST(Command, PingCarriesItsToken) {
  MemoryChannel channel(written([](StreamWriter& out) { write_ping(out, 0xdeadbeef); }));
  StreamReader in(channel);
  ASSERT_TRUE(in.u8());
  EXPECT_EQ(read_command(in).value().word(), 0xdeadbeefu);
}

TEST(Command, UnknownCommandsAndWrongLengthsAreRefused) {
  auto read = [](StreamReader& in) { return read_command(in); };
  for (int number : {0, 8, 12, 255})
    EXPECT_THAT(failure(raw({0, number, 0, 0}), read), HasSubstr(fmt::format("unknown command {}", number)));
  EXPECT_THAT(failure(raw({0, 1, 0, 1, 0}), read), HasSubstr("OPEN_RETURN_PATH"));
  EXPECT_THAT(failure(raw({0, 2, 0, 3, 0, 0, 0}), read), HasSubstr("3 bytes of payload instead of 4"));
  EXPECT_THAT(failure(raw({0, 3, 0, 8}), read), HasSubstr("POSTCOPY_ADVISE"));
  EXPECT_THAT(failure(raw({0, 6, 0xff, 0xff, 1}), read),
              HasSubstr("payload of command POSTCOPY_RAM_DISCARD"));
}

RC_GTEST_PROP(Configuration, WhatIsWrittenIsReadBack, ()) {
  Configuration configuration;
  configuration.machine = (*rc::gen::arbitrary<std::string>()).substr(0, kMaxMachineName);
  if (*rc::gen::arbitrary<bool>()) configuration.page_bits = *rc::gen::inRange(10u, 17u);
  for (const auto& name : *rc::gen::resize(8, rc::gen::arbitrary<std::vector<std::string>>()))
    configuration.capabilities.push_back(name.substr(0, 255));
  if (*rc::gen::arbitrary<bool>()) {
    configuration.uuid.emplace();
    for (auto& one : *configuration.uuid)
      one = static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
  }
  MemoryChannel channel(written([&](StreamWriter& out) { write_header(out, configuration); }), 3);
  StreamReader in(channel);
  auto got = read_header(in);
  RC_ASSERT(got.has_value());
  RC_ASSERT(got->machine == configuration.machine);
  RC_ASSERT(got->page_bits == configuration.page_bits);
  RC_ASSERT(got->capabilities == configuration.capabilities);
  RC_ASSERT(got->uuid == configuration.uuid);
  RC_ASSERT(in.at_end().value());
}

std::vector<std::byte> header_with(std::string_view rest) {
  return to_bytes(std::string("QEVM\0\0\0\3", 8) + std::string(rest));
}

TEST(Configuration, ForeignHeadersAreRefusedInWords) {
  using namespace std::string_literals;
  auto read = [](StreamReader& in) { return read_header(in); };
  EXPECT_THAT(failure(to_bytes("GIF8xxxxxxx"), read), HasSubstr("no migration stream"));
  EXPECT_THAT(failure(to_bytes("QEVM\0\0\0\2xxx"s), read), HasSubstr("version 2 is not supported"));
  EXPECT_THAT(failure(header_with("\1"s), read), HasSubstr("send-configuration=off"));
  EXPECT_THAT(failure(header_with("\7\xff\xff\xff\xff"s), read),
              HasSubstr("machine name of 4294967295 bytes"));
  const auto machine = "\7\0\0\0\1m"s;
  EXPECT_THAT(failure(header_with(machine + "\5\3abc\0\0\0\1"s), read),
              HasSubstr("'abc' at offset 14: unknown subsection"));
  EXPECT_THAT(failure(header_with(machine + "\5\x1a"
                                            "configuration/capabilities\0\0\0\1\xff\0\0\0"s),
                      read),
              HasSubstr("4278190080 capabilities"));
  EXPECT_THAT(failure(header_with(machine + "\5\x1a"
                                            "configuration/capabilities\0\0\0\2"s),
                      read),
              HasSubstr("version 2 is not known"));
  EXPECT_THAT(failure(header_with(machine + "\5\x1e"
                                            "configuration/target-page-bits\0\0\0\1\0\0\0\x40"s),
                      read),
              HasSubstr("2^64"));
  const auto caps =
      "\5\x1a"
      "configuration/capabilities\0\0\0\1\0\0\0\0"s;
  EXPECT_THAT(failure(header_with(machine + caps + caps), read), HasSubstr("comes twice"));
}

}  // namespace
}  // namespace handover::stream
