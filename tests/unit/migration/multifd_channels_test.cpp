#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <random>

#include "handover/base/byte_writer.h"
#include "migration/multifd_receiver.h"
#include "migration/multifd_sender.h"
#include "support/memory_channel.h"
#include "unit/memory/random_seed.h"

namespace handover {
namespace {

using testing::HasSubstr;
namespace multifd = stream::multifd;

constexpr std::uint64_t kRam = 4 * MiB;

std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> connected(const std::string& name) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {adopt_channel(UniqueFd(ends[0]), name).value(), adopt_channel(UniqueFd(ends[1]), name).value()};
}

/// Takes packets and keeps their first byte.
class PacketItem final : public Migratable {
 public:
  std::string section_name() const override { return "item"; }
  std::uint32_t version_id() const override { return 1; }
  std::size_t largest_packet() const override { return 100; }
  Status load_packet(Packet packet) override {
    std::lock_guard lock(mutex);
    seen.push_back(std::to_integer<int>(packet.bytes[0]));
    return packet.bytes[0] == std::byte{0xee} ? Status(fail(Errc::device, "the item refuses")) : Status{};
  }
  std::mutex mutex;
  std::vector<int> seen;
};

/// A destination's channels with the RAM behind them.
struct Receiving {
  explicit Receiving(std::vector<std::unique_ptr<Channel>> channels) {
    ram.set_page_barrier([this] { return receiver->barrier(cancel.token()); });
    EXPECT_TRUE(ram.load_setup());
    std::vector<MultifdReceiver::Lane> lanes(channels.size());
    for (auto& channel : channels) {
      auto in = std::make_unique<StreamReader>(*channel);
      const auto initial = multifd::read_initial(*in);
      EXPECT_TRUE(initial && initial->channel < lanes.size());
      lanes[initial->channel] = {std::move(channel), std::move(in)};
    }
    receiver = std::make_unique<MultifdReceiver>(
        std::move(lanes),
        MultifdReceiver::Sinks{.ram = &ram,
                               .find = [this](const std::string& section, std::uint32_t) -> Migratable* {
                                 return section == "item" ? &item : nullptr;
                               },
                               .failed =
                                   [this](const Error& why) {
                                     cancel.cancel(why.to_string());
                                     failure.set_value(why.to_string());
                                   }});
  }
  std::string why() {
    auto told = failure.get_future();
    if (told.wait_for(std::chrono::minutes(1)) != std::future_status::ready) return "nothing failed";
    return told.get();
  }
  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam).value();
  RamMigration ram{*memory};
  PacketItem item;
  CancelSource cancel;
  std::promise<std::string> failure;
  std::unique_ptr<MultifdReceiver> receiver;
};

TEST(MultifdChannels, CarryMemoryInAnyNumber) {
  std::mt19937_64 random(test::random_seed());
  for (const std::size_t count : {1, 2, 5}) {
    auto memory = GuestMemory::create(kRam).value();
    for (std::uint64_t page = 0; page < kRam / kPageSize; ++page)
      if (random() % 3 != 0)
        std::memset(memory->at(Gpa{page * kPageSize}, kPageSize).data(), 1 + random() % 255, kPageSize);
    std::vector<std::unique_ptr<Channel>> near, far;
    for (std::size_t i = 0; i < count; ++i) {
      auto [a, b] = connected(fmt::format("channel {}", i));
      near.push_back(std::move(a));
      far.push_back(std::move(b));
    }
    auto [main_near, main_far] = connected("main");
    RamMigration source(*memory);
    ProcessWrites writes(*memory);
    source.add_dirty_source(writes);
    auto sender = std::make_unique<MultifdSender>(std::move(near));
    source.set_page_sink(sender.get());
    Receiving there(std::move(far));

    std::thread load([&, &from = *main_far] {
      StreamReader in(from);
      for (int section = 0; section < 4; ++section)
        ASSERT_TRUE(there.ram.load_live(in, 4));
    });
    StreamWriter out(*main_near);
    ASSERT_TRUE(source.save_setup(out));
    ASSERT_TRUE(out.flush());
    for (int pass = 0; pass < 2; ++pass) {
      ASSERT_TRUE(source.save_iterate(out, {.bytes = kRam * 2, .cancel = {}}));
      ASSERT_TRUE(out.flush());
      // The second time some pages become zero, others get content.
      for (int i = 0; i < 100; ++i) {
        const Gpa at{random() % (kRam / kPageSize) * kPageSize};
        const std::vector<std::byte> content(kPageSize, static_cast<std::byte>(random() % 3));
        memory->write(at, content);
      }
    }
    ASSERT_TRUE(source.save_complete(out));
    ASSERT_TRUE(out.flush());
    load.join();
    ASSERT_TRUE(sender->drain({}));
    EXPECT_TRUE(std::ranges::equal(memory->at(Gpa{0}, kRam), there.memory->at(Gpa{0}, kRam)));
    source.cleanup();
    EXPECT_EQ(there.ram.counters().normal_pages, source.counters().normal_pages);
    EXPECT_GT(source.counters().zero_pages, 0u);
    sender.reset();
    there.receiver.reset();
  }
}

TEST(MultifdChannels, PacketsReachTheirItem) {
  auto [near, far] = connected("channel");
  std::vector<std::unique_ptr<Channel>> nears, fars;
  nears.push_back(std::move(near));
  fars.push_back(std::move(far));
  MultifdSender sender(std::move(nears));
  Receiving there(std::move(fars));
  test::MemoryChannel main;
  StreamWriter out(main);
  ASSERT_TRUE(sender.begin(out));
  ASSERT_TRUE(there.receiver->barrier({}));
  for (int i = 0; i < 20; ++i) {
    Packet packet{std::make_unique<std::byte[]>(50), 50};
    packet.bytes[0] = static_cast<std::byte>(i);
    ASSERT_TRUE(sender.send_packet("item", 0, std::move(packet), {}));
  }
  ASSERT_TRUE(sender.drain({}));
  ASSERT_TRUE(sender.barrier(out));
  ASSERT_TRUE(there.receiver->barrier({})) << "behind the packets";
  EXPECT_THAT(there.item.seen, testing::SizeIs(20));
  there.receiver.reset();
}

/// One channel whose bytes the test writes.
struct Hostile {
  Hostile() {
    auto [mine, theirs] = connected("hostile");
    channel = std::move(mine);
    std::array<std::byte, multifd::kInitialSize> initial;
    encode(multifd::Initial{}, initial);
    EXPECT_TRUE(channel->write_all(initial));
    std::vector<std::unique_ptr<Channel>> list;
    list.push_back(std::move(theirs));
    there.emplace(std::move(list));
  }
  void pages(const multifd::RamPacket& packet) {
    std::array<std::byte, multifd::kRamHeaderSize> header;
    encode(packet, header);
    EXPECT_TRUE(channel->write_all(header));
  }
  void state(const std::string& section, std::uint32_t size) {
    std::array<std::byte, multifd::kDeviceHeaderSize> header;
    encode(multifd::DevicePacket{section, 0, size}, header);
    EXPECT_TRUE(channel->write_all(header));
  }
  void synchronise() {
    // The block list, as START brings it.
    BeWriter start;
    start.u64(kRam | 0x004);
    start.u8(4);
    start.text("ram0");
    start.u64(kRam);
    start.u64(0x200);
    start.u64(0x010);
    test::MemoryChannel main(start.take());
    StreamReader in(main);
    pages({.sync = true});
    ASSERT_TRUE(there->ram.load_live(in, 4));
  }
  std::unique_ptr<Channel> channel;
  std::optional<Receiving> there;
};

TEST(MultifdChannels, WhatAHostileSourceSendsIsRefused) {
  const auto refused = [](const std::function<void(Hostile&)>& send, bool synchronised = true) {
    Hostile hostile;
    if (synchronised) hostile.synchronise();
    send(hostile);
    return hostile.there->why();
  };
  multifd::RamPacket one{.block = "ram0", .normal = 1};
  EXPECT_THAT(refused([&](Hostile& to) { to.pages(one); }, false),
              HasSubstr("before the first synchronisation"));
  EXPECT_THAT(refused([&](Hostile& to) { to.state("item", 10); }, false),
              HasSubstr("before the first synchronisation"));
  one.offsets[0] = kRam;
  EXPECT_THAT(refused([&](Hostile& to) { to.pages(one); }), HasSubstr("outside RAM block"));
  one.offsets[0] = 0;
  one.block = "vga.vram";
  EXPECT_THAT(refused([&](Hostile& to) { to.pages(one); }), HasSubstr("does not exist here"));
  EXPECT_THAT(refused([](Hostile& to) { to.state("nobody", 10); }), HasSubstr("`nobody`"));
  EXPECT_THAT(refused([](Hostile& to) { to.state("item", 0xfffffff0); }), HasSubstr("takes up to 100"));
  EXPECT_THAT(refused([](Hostile& to) {
                to.state("item", 1);
                EXPECT_TRUE(to.channel->write_all(std::vector{std::byte{0xee}}));
              }),
              HasSubstr("the item refuses"));
  EXPECT_THAT(refused([](Hostile& to) {
                to.state("item", 50);
                to.channel->shutdown();
              }),
              HasSubstr("too early"));
}

TEST(MultifdChannels, AChannelThatEndsBeforeItsSynchronisationPointIsAFailure) {
  Hostile hostile;
  hostile.synchronise();
  hostile.channel->shutdown();
  EXPECT_THAT(hostile.there->receiver->barrier({}).error().to_string(), HasSubstr("ended before"));
}

TEST(MultifdChannels, ABrokenChannelStopsTheSender) {
  auto [near, far] = connected("channel");
  std::vector<std::unique_ptr<Channel>> nears;
  nears.push_back(std::move(near));
  MultifdSender sender(std::move(nears));
  far.reset();
  Status sent;
  for (int i = 0; i < 1000 && sent; ++i)
    sent = sender.send_packet("item", 0, {std::make_unique<std::byte[]>(4096), 4096}, {});
  EXPECT_THAT(sent.error().to_string(), HasSubstr("multifd channel 0"));
  EXPECT_FALSE(sender.drain({}));
  EXPECT_FALSE(sender.check());
}

TEST(MultifdChannels, AFullChannelIsWaitedForUntilCancelled) {
  auto [near, far] = connected("channel");
  std::vector<std::unique_ptr<Channel>> nears;
  nears.push_back(std::move(near));
  MultifdSender sender(std::move(nears));
  CancelSource cancel;
  std::promise<Status> ended;
  std::thread filler([&] {
    Status sent;
    while (sent)
      sent = sender.send_packet("item", 0, {std::make_unique<std::byte[]>(1 << 20), 1 << 20}, cancel.token());
    ended.set_value(sent);
  });
  cancel.cancel("enough");
  filler.join();
  EXPECT_EQ(ended.get_future().get().error().code(), Errc::cancelled);
}

}  // namespace
}  // namespace handover
