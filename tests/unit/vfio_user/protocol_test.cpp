#include "handover/vfio_user/protocol.h"

#include <gtest/gtest.h>

#include <random>

#include "handover/vfio_abi/v1_region.h"
#include "unit/vfio_user/codec_round_trip.h"
#include "unit/vfio_user/wire_data.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;

// Decodes header and payload and builds the message again; the VERSION JSON is kept as its text.
Result<std::vector<std::byte>> rebuild(std::span<const std::byte> bytes) {
  NativeReader in(bytes);
  HANDOVER_ASSIGN(auto header, decode<Header>(in));
  HANDOVER_ASSIGN(auto payload, decode_and_encode(header, in.rest()));
  return MessageBuilder().data(payload).finish(header);
}

TEST(ProtocolVectors, AreAllThere) {
  EXPECT_EQ(wire_vectors().size(), 122u);
}

TEST(ProtocolVectors, DecodeAndEncodeToTheSameBytes) {
  for (const auto& vector : wire_vectors()) {
    const auto again = rebuild(vector.bytes);
    ASSERT_TRUE(again) << vector.about << "\n" << again.error().to_string();
    EXPECT_EQ(*again, vector.bytes) << vector.about;
  }
}

TEST(ProtocolVectors, AreNeverReadBeyondTheirEndWhenCutAnywhere) {
  for (const auto& vector : wire_vectors())
    for (std::size_t length = 0; length < vector.bytes.size(); ++length) {
      // An exact heap copy, so that the address sanitizer sees a read of one byte too much.
      const std::vector<std::byte> cut(vector.bytes.begin(),
                                       vector.bytes.begin() + static_cast<std::ptrdiff_t>(length));
      (void)rebuild(cut);
    }
}

TEST(ProtocolVectors, MutatedAtAnyByteStillDecodeOrFail) {
  for (const auto& vector : wire_vectors())
    for (std::size_t at = 0; at < vector.bytes.size(); ++at)
      for (unsigned change : {0x01u, 0x80u, 0xffu}) {
        auto mutated = vector.bytes;
        mutated[at] ^= static_cast<std::byte>(change);
        (void)rebuild(mutated);
      }
}

TEST(RegionInfo, CapabilityChainMustGoForwardAndStayInside) {
  RegionInfoReply reply;
  reply.head.flags = vfio::kRegionMmap;
  reply.type = vfio::RegionType{3, 1};
  reply.sparse = std::vector<vfio::RegionArea>{{0x1000, 0x1000}};
  NativeWriter out;
  reply.encode(out);
  const auto good = out.take();
  const auto decoded = RegionInfoReply::decode(good);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->type, vfio::v1::kRegionType);
  ASSERT_TRUE(decoded->sparse);
  EXPECT_EQ(decoded->sparse->at(0).offset, 0x1000u);

  const auto with = [&](std::size_t at, std::uint32_t value) {
    auto bad = good;
    store_int<std::uint32_t, std::endian::native>(bad.data() + at, value);
    return RegionInfoReply::decode(bad);
  };
  EXPECT_FALSE(with(12, 8)) << "first capability inside the fixed part";
  EXPECT_FALSE(with(12, 0xfffffff0)) << "first capability beyond the payload";
  EXPECT_FALSE(with(36, 32)) << "a loop";
  EXPECT_FALSE(with(36, 31)) << "backwards";
  EXPECT_FALSE(with(56, 0xffffffff)) << "more areas than bytes";
  EXPECT_TRUE(with(56, 0)) << "no areas";
}

TEST(RegionWriteMulti, CountMustBeThatOfThePayload) {
  for (std::uint64_t count :
       {std::uint64_t{0}, std::uint64_t{2}, std::uint64_t{1} << 61, ~std::uint64_t{0}}) {
    NativeWriter out;
    out.u64(count);
    out.zeros(24);
    EXPECT_FALSE(RegionWriteMulti::decode(out.view())) << count;
  }
}

TEST(DmaLoggingStart, RangesMustBeThoseOfThePayload) {
  for (std::uint32_t count : {0u, 2u, 0xffffffffu}) {
    NativeWriter out;
    encode(out, DmaLoggingStartHead{4096, count, 0});
    encode(out, LoggedRange{0, 4096});
    EXPECT_FALSE(DmaLoggingStart::decode(out.view())) << count;
  }
}

TEST(BitmapBytes, AreWholeWordsAndNeverOverflow) {
  EXPECT_EQ(bitmap_bytes(0, 4096), 0u);
  EXPECT_EQ(bitmap_bytes(1, 4096), 8u);
  EXPECT_EQ(bitmap_bytes(16 * 1024 * 1024, 4096), 512u);
  EXPECT_EQ(bitmap_bytes(64 * 4096 + 1, 4096), 16u);
  EXPECT_EQ(bitmap_bytes(~std::uint64_t{0}, 1), std::uint64_t{1} << 61);
}

}  // namespace
}  // namespace handover::vfio_user
