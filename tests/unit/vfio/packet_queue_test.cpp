#include "vfio/packet_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "unit/memory/random_seed.h"
#include "vfio/device_packet.h"

namespace handover::vfio {
namespace {

using testing::HasSubstr;

Packet packet(std::uint32_t index, std::size_t data = 4, bool config = false) {
  Packet made{std::make_unique<std::byte[]>(DevicePacketHeader::kSize + data),
              DevicePacketHeader::kSize + data};
  DevicePacketHeader{.index = index, .flags = config ? DevicePacketHeader::kConfigState : 0}.put(
      made.bytes.get());
  return made;
}

// D2: buffers arrive by number in any order and leave in turn.
TEST(PacketQueue, GivesPacketsInTurnWhateverTheirOrder) {
  std::mt19937_64 random(test::random_seed());
  for (int round = 0; round < 50; ++round) {
    const std::uint32_t count = 1 + random() % 40;
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::shuffle(order, random);
    PacketQueue queue(1 << 20);
    std::vector<std::size_t> sizes;
    std::thread taker([&] {
      for (;;) {
        auto next = queue.take({});
        ASSERT_TRUE(next && *next);
        sizes.push_back((*next)->packet.size);
        queue.done((*next)->packet);
        if ((*next)->config) return;
      }
    });
    for (const auto index : order)
      ASSERT_TRUE(queue.put(packet(index, index, index + 1 == count)));
    taker.join();
    ASSERT_EQ(sizes.size(), count);
    for (std::uint32_t i = 0; i < count; ++i)
      EXPECT_EQ(sizes[i], DevicePacketHeader::kSize + i);
  }
}

TEST(PacketQueue, NumbersThatDoNotFitAreRefused) {
  PacketQueue queue(1 << 20);
  ASSERT_TRUE(queue.put(packet(0)));
  EXPECT_THAT(queue.put(packet(0)).error().to_string(), HasSubstr("twice"));
  ASSERT_TRUE(queue.take({}));
  EXPECT_FALSE(queue.put(packet(0))) << "taken already";
  ASSERT_TRUE(queue.put(packet(5)));
  EXPECT_FALSE(queue.put(packet(3, 4, true))) << "the last one before one that is there";
  ASSERT_TRUE(queue.put(packet(7, 4, true)));
  EXPECT_FALSE(queue.put(packet(8))) << "after the last one";
  EXPECT_FALSE(queue.put(packet(6, 4, true))) << "a second last one";
  EXPECT_FALSE(queue.put(packet(DevicePacketHeader::kInvalidIndex)));
  EXPECT_FALSE(queue.put(Packet{std::make_unique<std::byte[]>(11), 11})) << "shorter than its header";
  auto newer = packet(2);
  store_be(newer.bytes.get(), 1u);
  EXPECT_THAT(queue.put(std::move(newer)).error().to_string(), HasSubstr("version 1"));
  auto flagged = packet(2);
  store_be(flagged.bytes.get() + 8, 2u);
  EXPECT_FALSE(queue.put(std::move(flagged)));
}

TEST(PacketQueue, MoreThanMayWaitIsRefusedUntilSomethingIsLoaded) {
  const auto one = packet(0, 1000).charge();
  PacketQueue queue(3 * one);
  for (std::uint32_t i = 0; i < 3; ++i)
    ASSERT_TRUE(queue.put(packet(i, 1000)));
  EXPECT_THAT(queue.put(packet(3, 1000)).error().to_string(), HasSubstr("max-queued-buffers-size"));
  auto taken = queue.take({});
  ASSERT_TRUE(taken && *taken);
  EXPECT_FALSE(queue.put(packet(3, 1000))) << "what is being loaded still takes memory";
  queue.done((*taken)->packet);
  EXPECT_TRUE(queue.put(packet(3, 1000)));
  EXPECT_EQ(queue.peak(), 3 * one);
}

TEST(PacketQueue, ACancelAndACloseEndTheWait) {
  CancelSource cancel;
  PacketQueue queue(1 << 20);
  std::thread canceller([&] { cancel.cancel("enough"); });
  const auto ended = queue.take(cancel.token());
  canceller.join();
  EXPECT_EQ(ended.error().code(), Errc::cancelled);
  std::thread closer([&] { queue.close(); });
  const auto closed = queue.take({});
  closer.join();
  ASSERT_TRUE(closed);
  EXPECT_FALSE(*closed);
  EXPECT_FALSE(queue.put(packet(0)));
}

}  // namespace
}  // namespace handover::vfio
