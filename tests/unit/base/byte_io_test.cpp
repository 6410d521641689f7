#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "handover/base/byte_reader.h"
#include "handover/base/byte_writer.h"

namespace handover {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int value : values)
    bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

template <class Writer>
std::vector<std::byte> write_sample() {
  Writer out;
  out.u8(0x01);
  out.u16(0x0203);
  out.u32(0x04050607);
  out.u64(0x08090a0b0c0d0e0f);
  return out.take();
}

TEST(ByteWriter, LaysIntegersOutInItsOrder) {
  EXPECT_EQ(write_sample<BeWriter>(), bytes_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(write_sample<LeWriter>(), bytes_of({1, 3, 2, 7, 6, 5, 4, 15, 14, 13, 12, 11, 10, 9, 8}));
}

template <class Reader, class Writer>
void expect_round_trip() {
  const auto bytes = write_sample<Writer>();
  Reader in(bytes);
  EXPECT_EQ(in.u8().value(), 0x01);
  EXPECT_EQ(in.u16().value(), 0x0203);
  EXPECT_EQ(in.u32().value(), 0x04050607u);
  EXPECT_EQ(in.u64().value(), 0x08090a0b0c0d0e0fu);
  EXPECT_EQ(in.remaining(), 0u);
}

TEST(ByteReader, ReadsWhatTheWriterOfItsOrderWrote) {
  expect_round_trip<BeReader, BeWriter>();
  expect_round_trip<LeReader, LeWriter>();
  expect_round_trip<NativeReader, NativeWriter>();
}

TEST(ByteReader, NeverRunsPastItsEnd) {
  const auto bytes = bytes_of({1, 2, 3});
  BeReader in(bytes);
  ASSERT_TRUE(in.u8());
  auto wide = in.u32();
  ASSERT_FALSE(wide);
  EXPECT_EQ(wide.error().code(), Errc::protocol);
  EXPECT_EQ(wide.error().to_string(), "4 bytes wanted at offset 1, only 2 left");
  EXPECT_EQ(in.position(), 1u) << "a failed read must take nothing";
  EXPECT_FALSE(in.bytes(std::numeric_limits<std::size_t>::max()));
  EXPECT_FALSE(in.skip(std::numeric_limits<std::size_t>::max()));
  EXPECT_EQ(in.u16().value(), 0x0203);
  EXPECT_FALSE(in.u8());
}

TEST(ByteReader, RefusesTextThatClaimsMoreThanThereIs) {
  const auto good = bytes_of({2, 'o', 'k', 'x'});
  BeReader in(good);
  EXPECT_EQ(in.str8().value(), "ok");
  EXPECT_EQ(in.remaining(), 1u);

  const auto bad = bytes_of({3, 'o', 'k'});
  EXPECT_FALSE(BeReader(bad).str8());
  EXPECT_FALSE(BeReader({}).str8());
}

TEST(ByteReader, BytesAndRestAreViewsInOrder) {
  const auto bytes = bytes_of({1, 2, 3, 4, 5});
  BeReader in(bytes);
  ASSERT_TRUE(in.skip(1));
  auto part = in.bytes(2);
  ASSERT_TRUE(part);
  EXPECT_EQ(part->data(), bytes.data() + 1);
  EXPECT_EQ(part->size(), 2u);
  auto rest = in.rest();
  EXPECT_EQ(rest.data(), bytes.data() + 3);
  EXPECT_EQ(rest.size(), 2u);
  EXPECT_TRUE(in.rest().empty());
}

TEST(ByteWriter, AppendsTextBytesAndZeros) {
  BeWriter out;
  out.text("ab");
  out.zeros(2);
  out.bytes(bytes_of({9}));
  EXPECT_EQ(out.size(), 5u);
  EXPECT_TRUE(std::ranges::equal(out.view(), bytes_of({'a', 'b', 0, 0, 9})));
}

}  // namespace
}  // namespace handover
