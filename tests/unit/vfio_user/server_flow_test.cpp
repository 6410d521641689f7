#include <future>

#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;
using vfio::DeviceState;

class ServerFlow : public ServedToy {
 protected:
  void SetUp() override { serve(); }
};

TEST_F(ServerFlow, CommandsWaitWhileAResetIsUnderWayAndDmaAnswersDoNot) {
  auto wire = client();
  ASSERT_EQ(wire.map(0, 1 << 20), 0);
  toy_->hold();
  const auto reset = wire.send(Command::device_reset);
  const auto info = wire.send(Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{}));
  ASSERT_TRUE(eventually([&] { return toy_->holds_something(); }));
  auto done = std::make_shared<std::promise<Status>>();
  toy_->post([=, this] {
    std::byte bytes[64];
    done->set_value(toy_->bus().dma_read(Iova{0}, bytes));
  });
  // The first thing to come is the question, although two replies are due.
  const auto question = wire.receive();
  ASSERT_EQ(question->command(), Command::dma_read);
  wire.send_bytes(MessageBuilder()
                      .add(*decode<DmaAccessHead>(question->payload))
                      .data(std::vector<std::byte>(64))
                      .finish(reply_header(question->header)));
  EXPECT_TRUE(done->get_future().get());
  toy_->release();
  EXPECT_EQ(wire.receive()->header.id, reset);
  EXPECT_EQ(wire.receive()->header.id, info);
}

TEST_F(ServerFlow, ClientMayGoWhileAnOperationIsUnderWay) {
  for (const auto command : {0, 1, 2}) {
    {
      auto wire = client();
      ASSERT_EQ(wire.map(0, 1 << 20), 0);
      toy_->hold();
      if (command == 0) wire.send(Command::device_reset);
      if (command == 1) wire.send(Command::dma_unmap, MessageBuilder().add(DmaUnmapHead{24, 0, 0, 1 << 20}));
      if (command == 2)
        wire.send(Command::device_feature, MessageBuilder()
                                               .add(FeatureHead{16, kFeatureDeviceState | kFeatureSet})
                                               .add(DeviceStateData{3, 0}));
      ASSERT_TRUE(eventually([&] { return toy_->holds_something(); }));
    }
    toy_->release();
    ASSERT_TRUE(idle());
    auto wire = client();
    EXPECT_TRUE(wire.alive());
    const auto state = vfio::device_state_from(wire.get_state());
    ASSERT_TRUE(state);
    // The walk to STOP_COPY is given up after the arc that it is on when the server sees the end; if it had
    // arrived by then, it leaves the saving state.
    if (command == 2)
      EXPECT_TRUE(state == DeviceState::running_p2p || state == DeviceState::stop) << to_string(*state);
    else
      EXPECT_EQ(state, DeviceState::running);
    ASSERT_EQ(wire.set_state(DeviceState::running), 0);
    wire.close();
    ASSERT_TRUE(idle());
  }
}

TEST_F(ServerFlow, FloodWithoutRepliesWhileTheDeviceIsBusyIsDoneInTheEnd) {
  auto wire = client();
  toy_->hold();
  wire.send(Command::device_reset);
  ASSERT_TRUE(eventually([&] { return toy_->holds_something(); }));
  constexpr int kWrites = 20000;
  std::thread flood([&] {
    for (int i = 0; i < kWrites; ++i) {
      std::byte value[4];
      store_le<std::uint32_t>(value, static_cast<std::uint32_t>(i));
      wire.send(Command::region_write, MessageBuilder().add(RegionAccessHead{0x100, 0, 4}).data(value), {},
                kFlagNoReply);
    }
  });
  toy_->release();
  flood.join();
  EXPECT_EQ(wire.receive()->command(), Command::device_reset);
  const auto value = wire.read_region(0, 0x100, 4);
  ASSERT_EQ(value.size(), 4u);
  EXPECT_EQ(load_le<std::uint32_t>(value.data()), kWrites - 1u);
}

TEST_F(ServerFlow, ClientThatNeverReadsStopsOnlyItself) {
  {
    auto wire = client();
    const int room = 1;
    ::setsockopt(wire.fd(), SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    // Each asks for much more than it sends; at some point the server stops reading and our socket is full.
    SendQueue queue;
    for (int i = 0; i < 20000; ++i)
      queue.push(MessageBuilder()
                     .add(RegionAccessHead{0, 0, 0x1000})
                     .finish({static_cast<std::uint16_t>(i), static_cast<std::uint16_t>(Command::region_read),
                              0, 0, 0}));
    bool stuck = false;
    for (int quiet = 0; !stuck;) {
      const auto before = queue.bytes();
      const auto sent = queue.flush(wire.fd());
      ASSERT_TRUE(sent);
      ASSERT_FALSE(*sent) << "80 MiB of replies must not be kept";
      quiet = queue.bytes() == before ? quiet + 1 : 0;
      stuck = quiet > 100;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  ASSERT_TRUE(idle());
  EXPECT_TRUE(client().alive());
}

TEST_F(ServerFlow, ManyPipelinedCommandsAreAnsweredInOrder) {
  auto wire = client();
  std::vector<std::uint16_t> ids;
  for (int i = 0; i < 2000; ++i)
    ids.push_back(wire.send(Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{})));
  for (auto id : ids)
    ASSERT_EQ(wire.receive()->header.id, id);
}

TEST_F(ServerFlow, HeaderAndBodyMayComeInSinglePieces) {
  auto wire = client();
  Header header;
  header.id = 5;
  header.command = static_cast<std::uint16_t>(Command::device_get_info);
  const auto bytes = MessageBuilder().add(protocol::DeviceInfo{}).finish(header);
  for (const auto& byte : bytes)
    ASSERT_TRUE(wire.send_bytes({&byte, 1}));
  EXPECT_EQ(wire.receive()->header.id, 5);
}

TEST_F(ServerFlow, MessageOfARefusedSizeIsAnsweredAndEndsTheConnection) {
  for (std::uint32_t size : {0u, 15u, (1u << 20) + 5000u, 0xffffffffu}) {
    auto wire = client();
    NativeWriter out;
    encode(out, Header{9, 4, size, 0, 0});
    wire.send_bytes(out.view());
    const auto reply = wire.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.id, 9);
    EXPECT_TRUE(reply->header.failed());
    EXPECT_FALSE(wire.receive());
  }
  EXPECT_TRUE(client().alive());
}

TEST_F(ServerFlow, ConnectionsThatEndAnywhereInAMessageAreNormal) {
  const auto bytes = MessageBuilder().data(std::vector<std::byte>(64)).finish({1, 10, 0, 0, 0});
  const auto before = open_fds();
  for (std::size_t cut = 0; cut < bytes.size(); cut += 7) {
    auto wire = client();
    wire.send_bytes(std::span(bytes).first(cut));
  }
  EXPECT_TRUE(client().alive());
  ASSERT_TRUE(idle());
  EXPECT_TRUE(eventually([&] { return open_fds() == before; }));
}

TEST_F(ServerFlow, SecondClientWaitsForTheFirstToGo) {
  auto first = client();
  WireClient second(path_);
  Version version;
  second.send(Command::version, MessageBuilder().add(version));
  EXPECT_TRUE(first.alive());
  pollfd waiting{second.fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 20), 0);
  first.close();
  EXPECT_EQ(second.receive()->command(), Command::version);
  EXPECT_TRUE(second.alive());
}

TEST_F(ServerFlow, WriteMultiDoesAllThatItCan) {
  auto wire = client();
  RegionWriteMulti writes;
  for (std::uint32_t i = 0; i < 200; ++i)
    writes.entries.push_back({{0x100 + 8 * i, 0, 8}, {static_cast<std::byte>(i)}});
  auto reply = wire.call(Command::region_write_multi, MessageBuilder().add(writes));
  EXPECT_EQ(decode<WrittenCount>(reply.payload)->count, 200u);
  EXPECT_EQ(wire.read_region(0, 0x100 + 8 * 150, 1)[0], std::byte{150});
  writes.entries[3].head.offset = 0x1000;
  reply = wire.call(Command::region_write_multi, MessageBuilder().add(writes));
  EXPECT_EQ(decode<WrittenCount>(reply.payload)->count, 3u);
}

TEST_F(ServerFlow, RegionInfoComesInTwoSteps) {
  auto wire = client();
  RegionInfoHead request;
  request.index = 2;
  auto reply = wire.call(Command::device_get_region_info, MessageBuilder().add(request));
  auto info = RegionInfoReply::decode(reply.payload);
  ASSERT_TRUE(info);
  EXPECT_EQ(info->head.argsz, 80u);
  EXPECT_EQ(info->head.flags, 7u) << "mappable, but no capabilities yet";
  EXPECT_TRUE(reply.fds.empty());
  request.argsz = 80;
  reply = wire.call(Command::device_get_region_info, MessageBuilder().add(request));
  info = RegionInfoReply::decode(reply.payload);
  EXPECT_EQ(info->head.flags, 15u);
  ASSERT_TRUE(info->sparse);
  EXPECT_EQ(info->sparse->size(), 2u);
  EXPECT_EQ(reply.fds.size(), 1u);
}

}  // namespace
}  // namespace handover::vfio_user
