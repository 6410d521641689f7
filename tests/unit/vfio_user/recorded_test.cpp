#include "unit/vfio_user/codec_round_trip.h"
#include "unit/vfio_user/recorded_trace.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;

TEST(Recorded, EveryMessageOfEveryTraceDecodesAndEncodesToItself) {
  std::size_t count = 0;
  for (const auto* name : kRecordedTraces)
    for (const auto& message : recorded_trace(name)) {
      const auto again = decode_and_encode(message.header, message.payload);
      ASSERT_TRUE(again) << name << " command " << message.header.command << ": "
                         << again.error().to_string();
      EXPECT_EQ(*again, message.payload) << name << " command " << message.header.command;
      ++count;
    }
  EXPECT_GT(count, 700u);
}

/// The shape of the device in the recording: one I/O BAR of 256 bytes, config space, an INTx.
class GpioModel final : public DeviceModel {
 public:
  GpioModel() {
    spec_.name = "gpio";
    spec_.regions[2] = {0x100, 3, -1, 0, {}};
    spec_.regions[vfio::kRegionConfig] = {0x100, 3, -1, 0, {}};
    spec_.irq_counts[vfio::kIrqIntx] = spec_.irq_counts[vfio::kIrqErr] = spec_.irq_counts[vfio::kIrqReq] = 1;
  }
  const DeviceSpec& spec() const override { return spec_; }
  void attach(DeviceBus&) override {}
  Status region_read(std::uint32_t, std::uint64_t offset, std::span<std::byte> to) override {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    return {};
  }
  Status region_write(std::uint32_t, std::uint64_t offset, std::span<const std::byte> from) override {
    std::copy(from.begin(), from.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
    return {};
  }
  void reset(Completion done) override { done({}); }
  void transition(vfio::DeviceState, vfio::DeviceState, Completion done) override { done({}); }
  Result<std::size_t> migration_read(std::span<std::byte>) override { return 0; }
  Status migration_write(std::span<const std::byte>) override { return {}; }

 private:
  DeviceSpec spec_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(0x100);
};

TEST(Recorded, OwnServerSatisfiesQemuFromStartToShutdown) {
  GpioModel model;
  EventLoop loop("server");
  loop.start_thread();
  const auto path = test_socket_path("gpio");
  auto server = Server::create(loop, model, {path});
  ASSERT_TRUE(server);
  const auto trace = recorded_trace("qemu11-gpio-shared-ram");
  const auto ram = make_memfd(256 << 20);
  std::vector<UniqueFd> eventfds;
  WireClient wire(path);
  for (std::size_t i = 0; i < trace.size(); ++i) {
    const auto& sent = trace[i];
    if (!sent.from_client) continue;
    std::vector<int> fds;
    if (sent.fds > 0 && sent.header.command == 2) fds.push_back(ram.get());
    if (sent.header.command == 8)
      for (std::size_t n = 0; n < sent.fds; ++n) {
        eventfds.push_back(make_eventfd());
        fds.push_back(eventfds.back().get());
      }
    ASSERT_TRUE(wire.send_bytes(MessageBuilder().data(sent.payload).finish(sent.header), fds));
    // The recorded reply: the next one from the server with this id.
    const auto recorded =
        std::find_if(trace.begin() + static_cast<std::ptrdiff_t>(i), trace.end(), [&](const auto& m) {
          return !m.from_client && m.header.id == sent.header.id && m.header.command == sent.header.command;
        });
    ASSERT_NE(recorded, trace.end());
    const auto reply = wire.receive();
    ASSERT_TRUE(reply) << "message " << i;
    EXPECT_EQ(reply->header.id, sent.header.id) << i;
    EXPECT_EQ(reply->header.command, sent.header.command) << i;
    EXPECT_EQ(reply->header.flags, recorded->header.flags) << i;
    EXPECT_EQ(reply->header.error, recorded->header.error) << i;
    if (reply->command() == Command::version) {
      EXPECT_LE(reply->header.size, kMaxVersionReply);
      continue;
    }
    EXPECT_EQ(reply->payload.size(), recorded->payload.size()) << i;
    // The two devices differ in what their registers hold, not in what they say about themselves.
    if (reply->command() != Command::region_read) {
      EXPECT_EQ(reply->payload, recorded->payload) << "message " << i;
    }
  }
}

TEST(Recorded, TheDestinationsSideOfAMigrationIsAcceptedAsLibvfioUserAcceptsIt) {
  ToyDevice toy(vfio::kMigrationStopCopy | vfio::kMigrationPreCopy);
  EventLoop loop("server");
  loop.start_thread();
  const auto path = test_socket_path("destination");
  auto server = Server::create(loop, toy, {path});
  ASSERT_TRUE(server);
  WireClient wire(path);
  // What the sample client said: version, RESUMING, the data, STOP, RUNNING, and only then the mappings.
  for (const auto& sent : recorded_trace("libvfio-user-v2-destination")) {
    const auto command = static_cast<Command>(sent.header.command);
    const bool migration = command == Command::version || command == Command::device_feature;
    if (!sent.from_client || sent.header.is_reply() || !migration) continue;
    // The data of another device means nothing to ours: it gets its own before it is told to stop.
    if (command == Command::device_feature && server->get()->device_state() == vfio::DeviceState::resuming) {
      NativeWriter record;
      record.u64(3);
      record.zeros(3);
      ASSERT_EQ(wire.call_errno(Command::mig_data_write,
                                MessageBuilder().add(MigDataHead{19, 11}).data(record.view())),
                0);
    }
    ASSERT_TRUE(wire.send_bytes(MessageBuilder().data(sent.payload).finish(sent.header)));
    const auto reply = wire.receive();
    ASSERT_TRUE(reply);
    EXPECT_FALSE(reply->header.failed()) << sent.header.command << " id " << sent.header.id;
    if (command == Command::device_feature) {
      EXPECT_EQ(reply->payload, sent.payload) << "a SET is echoed";
    }
  }
  EXPECT_EQ(server->get()->device_state(), vfio::DeviceState::running);
  EXPECT_EQ(toy.state().size(), 3u);
}

}  // namespace
}  // namespace handover::vfio_user
