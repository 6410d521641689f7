#include "handover/stream/return_path.h"

#include <gmock/gmock.h>
#include <rapidcheck/gtest.h>

#include "support/memory_channel.h"

namespace handover::stream {
namespace {

using test::MemoryChannel;
using test::to_bytes;
using testing::HasSubstr;

ReplyMessage any_message() {
  ReplyMessage message;
  message.type = *rc::gen::element(Reply::shut, Reply::pong, Reply::req_pages_id, Reply::req_pages,
                                   Reply::resume_ack, Reply::switchover_ack);
  if (message.type == Reply::shut || message.type == Reply::pong || message.type == Reply::resume_ack)
    message.value = *rc::gen::arbitrary<std::uint32_t>();
  if (message.type == Reply::req_pages || message.type == Reply::req_pages_id) {
    message.start = *rc::gen::arbitrary<std::uint64_t>();
    message.length = *rc::gen::arbitrary<std::uint32_t>();
  }
  if (message.type == Reply::req_pages_id)
    message.block = (*rc::gen::arbitrary<std::string>()).substr(0, 255);
  return message;
}

RC_GTEST_PROP(ReturnPath, WhatIsSentIsReceived, ()) {
  const auto count = *rc::gen::inRange(0, 20);
  MemoryChannel sink;
  ReturnPathWriter writer(sink);
  std::vector<ReplyMessage> messages;
  for (int i = 0; i < count; ++i) {
    messages.push_back(any_message());
    RC_ASSERT(writer.send(messages.back()).has_value());
  }
  MemoryChannel source(sink.output, *rc::gen::inRange<std::size_t>(1, 30));
  ReturnPathReader reader(source);
  for (const auto& message : messages) {
    auto got = reader.next();
    RC_ASSERT(got.has_value());
    RC_ASSERT(*got == message);
  }
  RC_ASSERT(reader.next().error().code() == Errc::closed);
}

TEST(ReturnPath, BytesAreThoseOfQemu) {
  MemoryChannel channel;
  ReturnPathWriter writer(channel);
  ASSERT_TRUE(writer.pong(1));
  ASSERT_TRUE(writer.switchover_ack());
  ASSERT_TRUE(writer.shut(0));
  EXPECT_EQ(channel.writes, 3u) << "every message goes out at once";
  EXPECT_EQ(channel.output, to_bytes(std::string("\0\2\0\4\0\0\0\1\0\7\0\0\0\1\0\4\0\0\0\0", 20)));
}

TEST(ReturnPath, ForeignMessagesAreRefused) {
  using namespace std::string_literals;
  const std::pair<std::string, const char*> cases[] = {
      {"\0\0\0\0"s, "unknown message 0"},
      {"\0\x08\0\0"s, "unknown message 8"},
      {"\0\1\0\5\0\0\0\0\0"s, "SHUT with 5 bytes"},
      {"\0\7\0\1\0"s, "SWITCHOVER_ACK with 1 bytes"},
      {"\0\3\2\1"s, "REQ_PAGES_ID with 513 bytes"},
      {"\0\3\0\x0d"s + std::string(12, 'x') + "\1"s, "wanted"},
      {"\0\3\0\x0f"s + std::string(12, 'x') + "\1ab"s, "too many"},
      {"\0\5\0\2\1a"s, "postcopy recovery is not supported"},
      {"\0\2\0\4\0\0"s, "too early"},
      {"\0"s, "too early"},
  };
  for (const auto& [bytes, part] : cases) {
    MemoryChannel channel(to_bytes(bytes));
    ReturnPathReader reader(channel);
    auto got = reader.next();
    ASSERT_FALSE(got) << part;
    EXPECT_THAT(got.error().to_string(), HasSubstr(part));
    EXPECT_THAT(got.error().to_string(), HasSubstr("return path"));
  }
}

TEST(ReturnPath, WhatCannotBeEncodedIsNotSent) {
  MemoryChannel channel;
  ReturnPathWriter writer(channel);
  EXPECT_FALSE(writer.send({.type = Reply::recv_bitmap}));
  EXPECT_FALSE(writer.send({.type = Reply::req_pages_id, .block = std::string(256, 'x')}));
  EXPECT_TRUE(channel.output.empty());
}

}  // namespace
}  // namespace handover::stream
