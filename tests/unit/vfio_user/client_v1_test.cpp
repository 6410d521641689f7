// The client and the server of this project with protocol v1 between them.

#include <gmock/gmock.h>

#include "handover/vfio_abi/v1_region.h"
#include "handover/vfio_user/client.h"
#include "unit/vfio_user/scripted_server.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using testing::HasSubstr;
using vfio::DeviceState;
using Kind = vfio::StateRead::Kind;
using Bytes = std::vector<std::byte>;

class ClientV1 : public ServedToy {
 protected:
  void connect(bool mappable, std::uint64_t features = 7) {
    ServerOptions options;
    options.migration = MigrationInterface::v1;
    options.v1_data_size = 0x4000;
    options.v1_data_mappable = mappable;
    serve(features, options);
    device_ = connect_client();
    ASSERT_NE(device_, nullptr);
    protocol_ = device_->migration();
    ASSERT_NE(protocol_, nullptr) << device_->migration_blocker();
  }
  void TearDown() override {
    device_.reset();
    ServedToy::TearDown();
  }
  std::unique_ptr<vfio::Device> connect_client() {
    auto device = vfio_user::connect({"toy0", path_, kPatience}, *memory_, {});
    EXPECT_TRUE(device) << device.error().to_string();
    return device ? std::move(*device) : nullptr;
  }
  /// Chunks until the device pauses or ends.
  std::vector<Bytes> drain(Kind until) {
    std::vector<Bytes> chunks;
    for (;;) {
      Bytes buffer(protocol_->preferred_chunk());
      const auto read = protocol_->read(buffer);
      EXPECT_TRUE(read) << read.error().to_string();
      if (!read) return chunks;
      buffer.resize(read->bytes);
      if (!buffer.empty()) chunks.push_back(std::move(buffer));
      if (read->kind == Kind::data) continue;
      EXPECT_EQ(read->kind, until);
      return chunks;
    }
  }
  Status load(const std::vector<Bytes>& chunks) {
    HANDOVER_TRY(protocol_->set_state(DeviceState::resuming));
    for (const auto& chunk : chunks)
      HANDOVER_TRY(protocol_->write(chunk));
    HANDOVER_TRY(protocol_->set_state(DeviceState::stop));
    return protocol_->set_state(DeviceState::running);
  }

  std::unique_ptr<GuestMemory> memory_ = std::move(*GuestMemory::create(1 * MiB));
  std::unique_ptr<vfio::Device> device_;
  vfio::MigrationProtocol* protocol_ = nullptr;
};

TEST_F(ClientV1, IsTheProtocolOfADeviceThatHasTheRegion) {
  connect(true);
  EXPECT_EQ(protocol_->protocol_name(), "v1 region");
  EXPECT_EQ(protocol_->features(), 5u);
  EXPECT_TRUE(protocol_->keeps_chunks());
  EXPECT_TRUE(device_->migration_blocker().empty());
  ASSERT_EQ(device_->info().num_regions, 10u);
  EXPECT_EQ(device_->region(9).type, (vfio::RegionType{3, 1}));
  EXPECT_EQ(device_->region(2).type, std::nullopt);
  EXPECT_NE(device_->dma_log(), nullptr);
}

TEST_F(ClientV1, MovesAStateWithPreCopyAndWithoutMappedAndTrapped) {
  for (const bool mappable : {true, false})
    for (const bool pre_copy : {true, false}) {
      SCOPED_TRACE(fmt::format("mappable {} pre-copy {}", mappable, pre_copy));
      connect(mappable);
      const auto original = toy_->state();
      std::vector<Bytes> chunks;
      if (pre_copy) {
        ASSERT_TRUE(protocol_->set_state(DeviceState::pre_copy));
        const auto info = protocol_->precopy_info();
        ASSERT_TRUE(info && *info);
        EXPECT_EQ((*info)->initial_bytes, 0u);
        EXPECT_EQ((*info)->dirty_bytes, ToyDevice::kStateSize + 8);
        chunks = drain(Kind::nothing_now);
        EXPECT_TRUE(drain(Kind::nothing_now).empty());
      }
      ASSERT_TRUE(protocol_->set_state(DeviceState::stop_copy));
      EXPECT_EQ(**protocol_->stop_copy_size(), ToyDevice::kStateSize + 8);
      for (auto& chunk : drain(Kind::end))
        chunks.push_back(std::move(chunk));
      EXPECT_TRUE(drain(Kind::end).empty());
      EXPECT_EQ(chunks.size(), (ToyDevice::kStateSize + 8 + 0x3fff) / 0x4000 * (pre_copy ? 2 : 1));
      ASSERT_TRUE(protocol_->set_state(DeviceState::stop));
      // Into another device: this one, which has forgotten everything.
      ASSERT_TRUE(device_->reset());
      toy_->set_state({});
      const auto loaded = load(chunks);
      ASSERT_TRUE(loaded) << loaded.error().to_string();
      EXPECT_EQ(toy_->state(), original);
      EXPECT_EQ(server_->device_state(), DeviceState::running);
      TearDown();
    }
}

TEST_F(ClientV1, AStoppedDeviceIsSavedWithoutEverRunning) {
  connect(true);
  ASSERT_TRUE(protocol_->set_state(DeviceState::stop));
  (void)toy_->take_arcs();
  ASSERT_TRUE(protocol_->set_state(DeviceState::stop_copy));
  EXPECT_FALSE(drain(Kind::end).empty());
  ASSERT_TRUE(protocol_->set_state(DeviceState::stop));
  for (const auto& [from, to] : toy_->take_arcs())
    EXPECT_FALSE(vfio::may_dma(to)) << vfio::to_string(to);
}

TEST_F(ClientV1, ASaveIsCancelledFromEveryPoint) {
  connect(true);
  for (const auto at : {DeviceState::pre_copy, DeviceState::stop_copy, DeviceState::stop}) {
    ASSERT_TRUE(protocol_->set_state(at));
    if (at != DeviceState::stop) {
      Bytes buffer(protocol_->preferred_chunk());
      ASSERT_TRUE(protocol_->read(buffer));
    }
    ASSERT_TRUE(protocol_->set_state(DeviceState::running));
    EXPECT_EQ(server_->device_state(), DeviceState::running);
  }
  ASSERT_TRUE(protocol_->set_state(DeviceState::pre_copy));
  EXPECT_EQ(drain(Kind::nothing_now).size(), 10u) << "a new session begins at the beginning";
}

TEST_F(ClientV1, AStateThatDoesNotFitIsRefusedAndOnlyAResetHelps) {
  connect(true);
  const auto refused = load({Bytes(20, std::byte{200})});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("the device is in error"));
  EXPECT_EQ(*protocol_->state(), DeviceState::error);
  EXPECT_FALSE(protocol_->set_state(DeviceState::running));
  EXPECT_FALSE(device_->lost());
  ASSERT_TRUE(device_->reset());
  EXPECT_EQ(*protocol_->state(), DeviceState::running);
  EXPECT_TRUE(protocol_->set_state(DeviceState::pre_copy));
}

TEST_F(ClientV1, ADeviceThatWasLeftInErrorIsResetForTheNextClient) {
  connect(true);
  EXPECT_FALSE(load({Bytes(20, std::byte{200})}));
  device_.reset();
  ASSERT_TRUE(idle());
  EXPECT_EQ(server_->device_state(), DeviceState::error);
  device_ = connect_client();
  ASSERT_NE(device_, nullptr);
  EXPECT_EQ(*device_->migration()->state(), DeviceState::running);
}

TEST_F(ClientV1, AChunkThatTheOtherSideCutLargerIsRefusedBeforeItIsSent) {
  connect(true);
  ASSERT_TRUE(protocol_->set_state(DeviceState::resuming));
  const auto refused = protocol_->write(Bytes(1 * MiB));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::mismatch);
}

// A server of somebody else's with a region of type 3/1 that cannot be used: the device works, but does not
// migrate, and says why.
TEST(ClientV1Hostile, ARegionThatIsTooSmallOrTooLargeBlocksMigrationOnly) {
  const auto memory = std::move(*GuestMemory::create(1 * MiB));
  for (const std::uint64_t size : {std::uint64_t{32}, std::uint64_t{1} << 40}) {
    ScriptedServer server("v1-size");
    server.on(protocol::Command::device_get_info, [](ScriptedServer&, const Message&) {
      ScriptedServer::Answer answer;
      answer.payload.add(protocol::DeviceInfo{16, 3, 10, 5});
      return answer;
    });
    server.on(protocol::Command::device_get_region_info, [&](ScriptedServer&, const Message& message) {
      protocol::RegionInfoReply info;
      info.head = *protocol::decode<protocol::RegionInfoHead>(message.payload);
      info.head.argsz = 32;
      info.head.flags = 3;
      info.head.size = info.head.index == 9 ? size : 0x1000;
      if (info.head.index == 9) info.type = vfio::v1::kRegionType;
      ScriptedServer::Answer answer;
      answer.payload.add(info);
      return answer;
    });
    auto device = server.connect(*memory);
    ASSERT_TRUE(device) << device.error().to_string();
    EXPECT_EQ((*device)->migration(), nullptr);
    EXPECT_THAT((*device)->migration_blocker(), HasSubstr("migration region (v1)"));
  }
}

}  // namespace
}  // namespace handover::vfio_user
