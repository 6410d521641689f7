#include "handover/vfio_user/protocol_version.h"

#include <gtest/gtest.h>

#include "handover/vfio_user/protocol.h"
#include "unit/vfio_user/wire_data.h"

namespace handover::vfio_user::protocol {
namespace {

TEST(VersionJson, AbsentMeansDefaults) {
  for (const char* text : {"", "{}", R"({"capabilities":{}})", R"({"something":[1,{"else":null}]})"}) {
    const auto capabilities = parse_capabilities(text);
    ASSERT_TRUE(capabilities) << text;
    EXPECT_EQ(*capabilities, Capabilities{}) << text;
  }
}

TEST(VersionJson, NumbersMayBeFloatsAndLarge) {
  const auto capabilities = parse_capabilities(
      R"({"capabilities":{"max_msg_fds":8.0,"pgsizes":9223372036854775808,"max_data_xfer_size":1099511627776.0}})");
  ASSERT_TRUE(capabilities) << capabilities.error().to_string();
  EXPECT_EQ(capabilities->max_msg_fds, 8u);
  EXPECT_EQ(capabilities->pgsizes, std::uint64_t{1} << 63);
  EXPECT_EQ(capabilities->max_data_xfer_size, std::uint64_t{1} << 40);
}

TEST(VersionJson, RefusesWrongTypesAndBrokenText) {
  const std::string deep = R"({"capabilities":)" + std::string(100, '[') + std::string(100, ']') + "}";
  const std::string huge = R"({"capabilities":{"x":")" + std::string(kMaxVersionText, 'x') + R"("}})";
  for (const std::string& text :
       std::vector<std::string>{"x",
                                "[]",
                                "1",
                                "{",
                                R"({"capabilities")",
                                R"({"capabilities":{"max_msg_fds)",
                                "{} trailing",
                                R"({"capabilities":[]})",
                                R"({"capabilities":1})",
                                R"({"capabilities":{"max_msg_fds":"8"}})",
                                R"({"capabilities":{"max_msg_fds":-1}})",
                                R"({"capabilities":{"max_msg_fds":1.5}})",
                                R"({"capabilities":{"max_data_xfer_size":1e300}})",
                                R"({"capabilities":{"migration":1}})",
                                R"({"capabilities":{"migration":{"pgsize":"4096"}}})",
                                R"({"capabilities":{"twin_socket":true}})",
                                R"({"capabilities":{"twin_socket":{"supported":1}}})",
                                R"({"capabilities":{"write_multiple":"yes"}})",
                                R"({"capabilities":{"handover":1}})",
                                "{\"capabilities\":\"\xff\xfe\"}",
                                std::string("{}\0{}", 5),
                                deep,
                                huge})
    EXPECT_FALSE(parse_capabilities(text)) << text.substr(0, 80);
}

TEST(VersionJson, OfEveryRecordedMessageMeansTheSameAfterWritingItAgain) {
  int versions = 0;
  for (const auto& vector : wire_vectors()) {
    NativeReader in(vector.bytes);
    if (decode<Header>(in)->command != 1) continue;
    const auto version = Version::decode(in.rest());
    ASSERT_TRUE(version) << vector.about;
    const auto read = parse_capabilities(version->text);
    ASSERT_TRUE(read) << vector.about;
    const auto again = parse_capabilities(to_json(*read));
    ASSERT_TRUE(again) << to_json(*read);
    EXPECT_EQ(*again, *read) << vector.about;
    ++versions;
  }
  EXPECT_EQ(versions, 9);
}

TEST(VersionJson, LongestReplyOfAServerIsOneThatQemuTakes) {
  Capabilities capabilities;
  capabilities.max_msg_fds = 16;
  capabilities.max_data_xfer_size = 67108864;
  capabilities.write_multiple = true;
  capabilities.migration = Capabilities::Migration{4096, std::nullopt};
  capabilities.twin_socket = Capabilities::TwinSocket{true, 0};
  capabilities.handover = true;
  EXPECT_LE(kHeaderSize + 4 + to_json(capabilities).size() + 1, kMaxVersionReply);
}

TEST(VersionPayload, MustEndWithItsNul) {
  NativeWriter out;
  out.u16(0);
  out.u16(2);
  EXPECT_TRUE(Version::decode(out.view())) << "no JSON at all";
  out.text("{}");
  EXPECT_FALSE(Version::decode(out.view()));
  out.u8(0);
  EXPECT_EQ(Version::decode(out.view())->text, "{}");
}

}  // namespace
}  // namespace handover::vfio_user::protocol
