#include <gmock/gmock.h>
#include <rapidcheck/gtest.h>

#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"

namespace handover {
namespace {

using test::MemoryChannel;
using test::to_bytes;
using testing::HasSubstr;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(StreamWriter, IntegersAreBigEndian) {
  MemoryChannel channel;
  StreamWriter out(channel);
  out.u8(0x01);
  out.be16(0x0203);
  out.be32(0x04050607);
  out.be64(0x08090a0b0c0d0e0f);
  out.str8("ab");
  out.zeros(2);
  EXPECT_EQ(out.position(), 20u);
  EXPECT_TRUE(channel.output.empty()) << "small values are gathered";
  ASSERT_TRUE(out.flush());
  EXPECT_EQ(text_of(channel.output),
            std::string("\1\2\3\4\5\6\7\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\2ab\0\0", 20));
}

TEST(StreamWriter, ReferencedPagesAreReadAtTheFlush) {
  MemoryChannel channel;
  StreamWriter out(channel);
  auto page = to_bytes("old page");
  out.text("<");
  out.page_ref(page);
  out.text(">");
  std::ranges::copy(to_bytes("new page"), page.begin());
  ASSERT_TRUE(out.flush());
  EXPECT_EQ(text_of(channel.output), "<new page>");
  EXPECT_EQ(channel.writes, 1u) << "one vectored write for all of it";
}

TEST(StreamWriter, FirstErrorSticks) {
  MemoryChannel channel;
  StreamWriter out(channel);
  channel.fail_writes = true;
  out.u8(1);
  ASSERT_FALSE(out.flush());
  channel.fail_writes = false;
  out.u8(2);
  EXPECT_FALSE(out.flush());
  EXPECT_FALSE(out.status());
  EXPECT_TRUE(channel.output.empty());
}

TEST(StreamWriterDeathTest, NamesLongerThanTheirLengthByteEndTheProgram) {
  MemoryChannel channel;
  StreamWriter out(channel);
  EXPECT_DEATH(out.str8(std::string(256, 'x')), "256 bytes");
}

// Whatever is written, in whatever mixture of small, large and referenced pieces, is read back, however the
// channel cuts it.
RC_GTEST_PROP(StreamIo, WhatIsWrittenIsReadBack, ()) {
  std::vector<std::uint32_t> sizes(*rc::gen::inRange<std::size_t>(0, 20));
  for (auto& one : sizes)
    one = *rc::gen::inRange(0u, 100000u);
  const auto step = *rc::gen::inRange<std::size_t>(1, 70000);
  MemoryChannel sink;
  StreamWriter out(sink);
  std::vector<std::vector<std::byte>> parts;
  parts.reserve(sizes.size());
  for (std::uint32_t size : sizes) {
    const std::size_t length = size % 3 == 0 ? size % 100 : size;
    auto& part = parts.emplace_back(length);
    for (std::size_t i = 0; i < length; ++i)
      part[i] = static_cast<std::byte>(i * 7 + length);
    out.be32(size);
    if (size % 2 == 0)
      out.bytes(part);
    else
      out.page_ref(part);
  }
  RC_ASSERT(out.flush().has_value());
  RC_ASSERT(out.position() == sink.output.size());

  MemoryChannel source(sink.output, step);
  StreamReader in(source, 4096);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    RC_ASSERT(in.be32().value() == sizes[i]);
    if (sizes[i] % 5 == 0) {
      RC_ASSERT(in.skip(parts[i].size()).has_value());
      continue;
    }
    std::vector<std::byte> got(parts[i].size());
    RC_ASSERT(in.bytes(got).has_value());
    RC_ASSERT(got == parts[i]);
  }
  RC_ASSERT(in.at_end().value());
  RC_ASSERT(in.offset() == sink.output.size());
}

TEST(StreamReader, PeekTakesNothingAndComesShortOnlyAtTheEnd) {
  MemoryChannel channel(to_bytes("abcdef"), 1);
  StreamReader in(channel);
  EXPECT_EQ(text_of(in.peek(4).value()), "abcd");
  EXPECT_EQ(in.offset(), 0u);
  ASSERT_TRUE(in.skip(2));
  EXPECT_EQ(text_of(in.peek(100).value()), "cdef");
  EXPECT_FALSE(in.at_end().value());
  ASSERT_TRUE(in.skip(4));
  EXPECT_TRUE(in.at_end().value());
  EXPECT_TRUE(in.peek(1).value().empty());
}

TEST(StreamReader, PeekWorksAcrossTheEndOfTheBuffer) {
  std::vector<std::byte> bytes(3000);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i);
  MemoryChannel channel(bytes);
  StreamReader in(channel, 1024);
  ASSERT_TRUE(in.skip(1000));
  auto ahead = in.peek(StreamReader::kMaxPeek);
  ASSERT_TRUE(ahead);
  ASSERT_EQ(ahead->size(), StreamReader::kMaxPeek);
  for (std::size_t i = 0; i < ahead->size(); ++i)
    ASSERT_EQ((*ahead)[i], static_cast<std::byte>(1000 + i));
}

TEST(StreamReader, EndIsClosedAndNamesTheOffset) {
  for (int kind = 0; kind < 4; ++kind) {
    MemoryChannel channel(to_bytes("abc"));
    StreamReader in(channel);
    ASSERT_TRUE(in.u8());
    std::byte four[4];
    Status status;
    if (kind == 0) status = in.bytes(four);
    if (kind == 1) status = in.skip(4);
    if (kind == 2 || kind == 3) {
      auto value = in.be32();
      if (!value) status = std::unexpected(value.error());
    }
    ASSERT_FALSE(status) << kind;
    EXPECT_EQ(status.error().code(), Errc::closed);
    EXPECT_THAT(status.error().to_string(), HasSubstr("memory ends at offset 3, 2 bytes too early"));
  }
}

TEST(StreamReader, LongSkipsInFilesDoNotReadAndStillFindTheEnd) {
  test::TempFolder folder;
  test::write_whole_file(folder / "f", std::string(10000, 'x') + "end");
  auto listener = listen_on(Address::parse("file:" + (folder / "f")).value());
  ASSERT_TRUE(listener);
  auto channel = (*listener)->accept({});
  ASSERT_TRUE(channel);
  StreamReader in(**channel, 1024);
  ASSERT_TRUE(in.u8());
  ASSERT_TRUE(in.skip(9999));
  EXPECT_EQ(in.offset(), 10000u);
  EXPECT_EQ(in.u8().value(), 'e');
  auto status = in.skip(std::uint64_t{1} << 60);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("ends at offset 10003"));
}

}  // namespace
}  // namespace handover
