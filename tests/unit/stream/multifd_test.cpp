#include "handover/stream/multifd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "handover/base/units.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"

namespace handover::stream {
namespace {

using test::MemoryChannel;
using test::to_bytes;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::byte> sample(const std::string& file) {
  return to_bytes(test::read_whole_file(HANDOVER_TEST_DATA "/qemu-streams/none-512k-multifd/" + file));
}

/// What a channel carried.
struct Walked {
  multifd::Initial initial;
  std::uint32_t ram = 0, sync = 0, state = 0, normal = 0, zero = 0;
  std::set<std::uint64_t> pages;
  std::vector<std::vector<std::byte>> headers;  // written again by us
};

Walked walk(const std::vector<std::byte>& bytes) {
  MemoryChannel channel(bytes);
  StreamReader in(channel);
  Walked walked;
  walked.initial = multifd::read_initial(in).value();
  while (!in.at_end().value()) {
    auto packet = multifd::read_packet(in).value();
    if (std::holds_alternative<multifd::DevicePacket>(packet)) {
      ++walked.state;
      EXPECT_TRUE(in.skip(std::get<multifd::DevicePacket>(packet).size));
      continue;
    }
    const auto& pages = std::get<multifd::RamPacket>(packet);
    ++(pages.sync ? walked.sync : walked.ram);
    walked.normal += pages.normal;
    walked.zero += pages.zero;
    walked.pages.insert(pages.normal_offsets().begin(), pages.normal_offsets().end());
    walked.pages.insert(pages.zero_offsets().begin(), pages.zero_offsets().end());
    std::vector<std::byte> header(multifd::kRamHeaderSize);
    encode(pages, std::span<std::byte, multifd::kRamHeaderSize>(header));
    walked.headers.push_back(header);
    EXPECT_TRUE(in.skip(pages.normal * kPageSize));
  }
  EXPECT_EQ(in.offset(), bytes.size());
  return walked;
}

// The manifest of the sample has these figures.
TEST(Multifd, QemusChannelsAreWalkedToTheirLastByte) {
  const auto first = walk(sample("multifd0.bin"));
  EXPECT_EQ(first.initial.channel, 0);
  EXPECT_EQ(first.ram, 1u);
  EXPECT_EQ(first.sync, 3u);
  EXPECT_EQ(first.normal, 5u);
  EXPECT_EQ(first.zero, 123u);
  EXPECT_EQ(first.pages.size(), 128u);
  const auto second = walk(sample("multifd1.bin"));
  EXPECT_EQ(second.initial.channel, 1);
  EXPECT_EQ(second.ram, 0u);
  EXPECT_EQ(second.sync, 3u);
}

TEST(Multifd, WhatIsWrittenIsByteForByteWhatQemuWrote) {
  const auto bytes = sample("multifd0.bin");
  const auto walked = walk(bytes);
  std::vector<std::byte> initial(multifd::kInitialSize);
  encode(walked.initial, std::span<std::byte, multifd::kInitialSize>(initial));
  EXPECT_TRUE(std::equal(initial.begin(), initial.end(), bytes.begin()));
  std::size_t at = multifd::kInitialSize;
  for (const auto& header : walked.headers) {
    ASSERT_LE(at + header.size(), bytes.size());
    EXPECT_TRUE(std::equal(header.begin(), header.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at)))
        << "packet at " << at;
    at += header.size() + load_be<std::uint32_t>(header.data() + 20);
  }
  EXPECT_EQ(at, bytes.size());
}

TEST(Multifd, DeviceStateRoundTrips) {
  std::vector<std::byte> bytes(multifd::kDeviceHeaderSize);
  encode(multifd::DevicePacket{"0000:00:01.0/vfio", 7, 12345},
         std::span<std::byte, multifd::kDeviceHeaderSize>(bytes));
  MemoryChannel channel(bytes);
  StreamReader in(channel);
  const auto packet = std::get<multifd::DevicePacket>(multifd::read_packet(in).value());
  EXPECT_EQ(packet.section, "0000:00:01.0/vfio");
  EXPECT_EQ(packet.instance, 7u);
  EXPECT_EQ(packet.size, 12345u);
}

std::string refusal(std::vector<std::byte> bytes) {
  MemoryChannel channel(std::move(bytes));
  StreamReader in(channel);
  const auto packet = multifd::read_packet(in);
  return packet ? "" : packet.error().to_string();
}

TEST(Multifd, WhatDoesNotBelongIsRefused) {
  std::vector<std::byte> good(multifd::kRamHeaderSize);
  multifd::RamPacket pages{.block = "ram0", .normal = 2, .zero = 1};
  pages.offsets = {0, 0x3000, 0x1000};
  encode(pages, std::span<std::byte, multifd::kRamHeaderSize>(good));
  EXPECT_EQ(refusal(good), "");
  const auto with = [&](std::size_t at, std::uint32_t value) {
    auto bad = good;
    store_be(bad.data() + at, value);
    return refusal(std::move(bad));
  };
  EXPECT_THAT(with(0, 0x51455650), HasSubstr("where a multifd packet begins"));
  EXPECT_THAT(with(4, 2), HasSubstr("version 2"));
  EXPECT_THAT(with(8, 0x100), HasSubstr("flags"));
  EXPECT_THAT(with(8, 0x04), HasSubstr("multifd-compression"));
  EXPECT_THAT(with(8, 0x41), HasSubstr("synchronisation"));
  EXPECT_THAT(with(12, 129), HasSubstr("128 is the most"));
  EXPECT_THAT(with(16, 0xffffffff), HasSubstr("128 is the most"));
  EXPECT_THAT(with(32, 127), HasSubstr("128 is the most"));
  EXPECT_THAT(with(324, 0x801), HasSubstr("no offset of a page"));
  auto endless = good;
  std::fill_n(endless.begin() + 64, 256, std::byte{'x'});
  EXPECT_THAT(refusal(endless), HasSubstr("has no end"));
  EXPECT_THAT(refusal({good.begin(), good.begin() + 700}), HasSubstr("too early"));

  std::vector<std::byte> empty(multifd::kDeviceHeaderSize);
  encode(multifd::DevicePacket{"x/vfio", 0, 0}, std::span<std::byte, multifd::kDeviceHeaderSize>(empty));
  EXPECT_THAT(refusal(empty), HasSubstr("empty packet"));
}

TEST(StreamReader, ScatterFillsAllPartsWhereverTheChannelCuts) {
  std::vector<std::byte> bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 7);
  for (const std::size_t step : {1, 3, 64, 1000}) {
    MemoryChannel channel(bytes, step);
    StreamReader in(channel, 64);
    ASSERT_TRUE(in.be32());
    std::vector<std::byte> first(10), second(0), third(900);
    iovec parts[] = {{first.data(), first.size()}, {second.data(), 0}, {third.data(), third.size()}};
    ASSERT_TRUE(in.scatter(parts));
    EXPECT_TRUE(std::equal(first.begin(), first.end(), bytes.begin() + 4));
    EXPECT_TRUE(std::equal(third.begin(), third.end(), bytes.begin() + 14));
    EXPECT_EQ(in.offset(), 914u);
    iovec beyond[] = {{third.data(), third.size()}};
    EXPECT_THAT(in.scatter(beyond).error().to_string(), HasSubstr("too early"));
  }
}

}  // namespace
}  // namespace handover::stream
