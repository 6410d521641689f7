#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;
using vfio::DeviceState;

class ServerMigration : public ServedToy {
 protected:
  using Arcs = std::vector<std::pair<DeviceState, DeviceState>>;

  static std::vector<std::byte> read_state(WireClient& wire, std::uint32_t size) {
    const auto reply = wire.call(Command::mig_data_read, MessageBuilder().add(MigDataHead{size + 8, size}));
    EXPECT_FALSE(reply.header.failed());
    const auto data = MigData::decode(reply.payload);
    EXPECT_EQ(data->head.size, data->data.size());
    EXPECT_EQ(data->head.argsz, data->data.size() + 8);
    return {data->data.begin(), data->data.end()};
  }
  static int write_state(WireClient& wire, std::span<const std::byte> data) {
    const auto size = static_cast<std::uint32_t>(data.size());
    return wire.call_errno(Command::mig_data_write,
                           MessageBuilder().add(MigDataHead{size + 8, size}).data(data));
  }
};

TEST_F(ServerMigration, EveryPairOfStatesTakesTheShortestPathInSingleArcs) {
  for (std::uint64_t features : {1, 3, 5, 7}) {
    serve(features);
    auto wire = client();
    for (std::uint32_t a = 1; a < vfio::kDeviceStateCount; ++a)
      for (std::uint32_t b = 1; b < vfio::kDeviceStateCount; ++b) {
        const auto from = *vfio::device_state_from(a), to = *vfio::device_state_from(b);
        if (!vfio::state_exists(from, features)) continue;
        // From a fresh device by a reset; a loaded device would have to be complete.
        ASSERT_EQ(wire.call_errno(Command::device_reset), 0);
        ASSERT_EQ(wire.set_state(from), 0) << a;
        if (from == DeviceState::resuming) {
          ASSERT_EQ(write_state(wire, std::vector<std::byte>(8)), 0);
        }
        (void)toy_->take_arcs();
        const auto path = vfio::path_between(from, to, features);
        EXPECT_EQ(wire.set_state(to), path ? 0 : EINVAL)
            << vfio::to_string(from) << " to " << vfio::to_string(to);
        Arcs expected;
        if (path)
          for (auto at = from; auto next : *path)
            expected.push_back({std::exchange(at, next), next});
        EXPECT_EQ(toy_->take_arcs(), expected);
        EXPECT_EQ(wire.get_state(), static_cast<std::uint32_t>(path ? to : from));
        EXPECT_EQ(static_cast<std::uint32_t>(server_->device_state()), wire.get_state());
      }
    wire.close();
    TearDown();
  }
}

TEST_F(ServerMigration, FailedArcLeavesTheLastStateReachedAndItsErrno) {
  serve();
  auto wire = client();
  toy_->fail_transition_to(DeviceState::stop_copy, 0xeef);
  EXPECT_EQ(wire.set_state(DeviceState::stop_copy), 0xeef);
  EXPECT_EQ(wire.get_state(), static_cast<std::uint32_t>(DeviceState::stop))
      << "RUNNING_P2P, STOP were reached";
  toy_->fail_transition_to(DeviceState::running, 0xbeef);
  EXPECT_EQ(wire.set_state(DeviceState::running), EIO) << "no errno of Linux";
  EXPECT_EQ(wire.get_state(), static_cast<std::uint32_t>(DeviceState::running_p2p));
  toy_->fail_no_transition();
  EXPECT_EQ(wire.set_state(DeviceState::running), 0);
}

TEST_F(ServerMigration, StateSurvivesChunksOfAnySizeOnBothSides) {
  serve();
  auto wire = client();
  const auto original = toy_->state();
  ASSERT_EQ(wire.set_state(DeviceState::pre_copy), 0);
  std::vector<std::byte> stream;
  for (std::uint32_t size = 1; stream.size() < ToyDevice::kStateSize + 8; size = size * 3 % 50000 + 1) {
    const auto part = read_state(wire, size);
    ASSERT_FALSE(part.empty());
    stream.insert(stream.end(), part.begin(), part.end());
  }
  EXPECT_TRUE(read_state(wire, 1024).empty()) << "nothing now";
  ASSERT_EQ(wire.set_state(DeviceState::stop_copy), 0);
  for (;;) {
    const auto part = read_state(wire, 32768);
    stream.insert(stream.end(), part.begin(), part.end());
    if (part.size() < 32768) break;
  }
  EXPECT_TRUE(read_state(wire, 1024).empty()) << "the end stays the end";
  toy_->set_state({});
  ASSERT_EQ(wire.set_state(DeviceState::resuming), 0);
  for (std::size_t done = 0; done < stream.size();) {
    const auto part = std::span(stream).subspan(done, std::min<std::size_t>(stream.size() - done, 7777));
    ASSERT_EQ(write_state(wire, part), 0);
    done += part.size();
  }
  ASSERT_EQ(wire.set_state(DeviceState::running), 0);
  EXPECT_EQ(toy_->state(), original);
}

TEST_F(ServerMigration, DeviceWithoutMigrationHasNoneOfIt) {
  serve(0);
  auto wire = client();
  EXPECT_EQ(wire.set_state(DeviceState::running), ENOTTY);
  for (std::uint32_t feature :
       {kFeatureMigration, kFeatureDeviceState, kFeatureMigDataSize, kFeatureMigPrecopyInfo})
    EXPECT_EQ(wire.call_errno(Command::device_feature,
                              MessageBuilder().add(FeatureHead{8, feature | kFeatureProbe})),
              ENOTTY);
  EXPECT_EQ(wire.call_errno(Command::mig_data_read, MessageBuilder().add(MigDataHead{16, 8})), EINVAL);
}

TEST_F(ServerMigration, EveryStateIsLeftInOrderWhenTheClientGoes) {
  serve();
  struct {
    DeviceState left, found;
  } const cases[] = {
      {DeviceState::running, DeviceState::running},
      {DeviceState::stop, DeviceState::stop},
      {DeviceState::stop_copy, DeviceState::stop},
      {DeviceState::pre_copy, DeviceState::running},
      {DeviceState::pre_copy_p2p, DeviceState::running},
      {DeviceState::running_p2p, DeviceState::running_p2p},
      {DeviceState::resuming, DeviceState::running /* by reset: nothing was loaded */},
  };
  for (const auto& [left, found] : cases) {
    {
      auto wire = client();
      ASSERT_EQ(wire.set_state(DeviceState::running), 0);
      ASSERT_EQ(wire.set_state(left), 0);
    }
    ASSERT_TRUE(idle());
    EXPECT_EQ(server_->device_state(), found) << vfio::to_string(left);
    auto wire = client();
    EXPECT_EQ(wire.get_state(), static_cast<std::uint32_t>(found));
  }
}

TEST_F(ServerMigration, NothingOfAClientIsLeftForTheNext) {
  serve();
  const auto file = make_memfd(1 << 20);
  const auto eventfd = make_eventfd();
  const auto before = open_fds();
  {
    auto wire = client();
    ASSERT_EQ(wire.map(0, 1 << 20, {file.get()}), 0);
    ASSERT_EQ(
        wire.call_errno(Command::device_set_irqs,
                        MessageBuilder().add(SetIrqsHead{20, kIrqDataEventfd | kIrqActionTrigger, 2, 0, 1}),
                        {eventfd.get()}),
        0);
    ASSERT_EQ(wire.call_errno(Command::device_feature,
                              MessageBuilder()
                                  .add(FeatureHead{24, kFeatureDmaLoggingStart | kFeatureSet})
                                  .add(DmaLoggingStartHead{4096, 0, 0})),
              0);
    toy_->bus().trigger_irq(vfio::kIrqMsix, 0);
    EXPECT_EQ(take_events(eventfd), 1u);
  }
  ASSERT_TRUE(idle());
  EXPECT_EQ(open_fds(), before);
  std::byte byte[1] = {};
  EXPECT_FALSE(toy_->bus().dma_write(Iova{0}, byte));
  toy_->bus().trigger_irq(vfio::kIrqMsix, 0);
  EXPECT_EQ(take_events(eventfd), 0u);
  auto wire = client();
  EXPECT_EQ(wire.call_errno(Command::device_feature,
                            MessageBuilder()
                                .add(FeatureHead{1000, kFeatureDmaLoggingReport | kFeatureGet})
                                .add(DmaLoggingReportHead{0, 4096, 4096})),
            EINVAL)
      << "logging is off";
}

TEST_F(ServerMigration, MaskedInterruptComesWhenItIsUnmasked) {
  serve();
  const auto eventfd = make_eventfd();
  auto wire = client();
  const auto irqs = [&](std::uint32_t flags, const std::vector<int>& fds = {}) {
    return wire.call_errno(Command::device_set_irqs, MessageBuilder().add(SetIrqsHead{20, flags, 0, 0, 1}),
                           fds);
  };
  ASSERT_EQ(irqs(kIrqDataEventfd | kIrqActionTrigger, {eventfd.get()}), 0);
  ASSERT_EQ(irqs(kIrqDataNone | kIrqActionMask), 0);
  toy_->bus().trigger_irq(vfio::kIrqIntx, 0);
  EXPECT_EQ(take_events(eventfd), 0u);
  ASSERT_EQ(irqs(kIrqDataNone | kIrqActionUnmask), 0);
  EXPECT_EQ(take_events(eventfd), 1u);
  ASSERT_EQ(irqs(kIrqDataNone | kIrqActionTrigger), 0);
  EXPECT_EQ(take_events(eventfd), 1u) << "loopback";
}

}  // namespace
}  // namespace handover::vfio_user
