// What a server was told to offer of its device, and what clients then see.

#include <gmock/gmock.h>

#include <future>

#include "handover/vfio_user/client.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using testing::HasSubstr;
using vfio::DeviceState;
using Arcs = std::vector<std::pair<DeviceState, DeviceState>>;

class MigrationChoice : public ServedToy {
 protected:
  std::unique_ptr<vfio::Device> offer(const ServerOptions& options) {
    serve(7, options);
    auto device = vfio_user::connect({"toy0", path_, kPatience}, *memory_, {});
    EXPECT_TRUE(device) << device.error().to_string();
    return device ? std::move(*device) : nullptr;
  }
  std::unique_ptr<GuestMemory> memory_ = std::move(*GuestMemory::create(1 * MiB));
};

TEST_F(MigrationChoice, NoneIsADeviceThatCannotMigrateAndSaysSo) {
  ServerOptions options;
  options.migration = MigrationInterface::none;
  const auto device = offer(options);
  EXPECT_EQ(device->migration(), nullptr);
  EXPECT_THAT(device->migration_blocker(), HasSubstr("does not support migration"));
  EXPECT_EQ(device->info().num_regions, vfio::kPciRegions);
  EXPECT_NE(device->dma_log(), nullptr);
}

TEST_F(MigrationChoice, WithoutP2pTheModelWalksThroughItsP2pStatesAndClientsNeverSeeThem) {
  ServerOptions options;
  options.migration_features_mask = ~vfio::kMigrationP2p;
  const auto device = offer(options);
  auto* migration = device->migration();
  ASSERT_NE(migration, nullptr);
  EXPECT_EQ(migration->features(), vfio::kMigrationStopCopy | vfio::kMigrationPreCopy);
  EXPECT_FALSE(migration->set_state(DeviceState::running_p2p));
  EXPECT_FALSE(migration->set_state(DeviceState::pre_copy_p2p));
  ASSERT_TRUE(migration->set_state(DeviceState::pre_copy));
  (void)toy_->take_arcs();
  ASSERT_TRUE(migration->set_state(DeviceState::stop_copy));
  EXPECT_EQ(toy_->take_arcs(), (Arcs{{DeviceState::pre_copy, DeviceState::pre_copy_p2p},
                                     {DeviceState::pre_copy_p2p, DeviceState::stop_copy}}));
  ASSERT_TRUE(migration->set_state(DeviceState::running));
  EXPECT_EQ(toy_->take_arcs(), (Arcs{{DeviceState::stop_copy, DeviceState::stop},
                                     {DeviceState::stop, DeviceState::running_p2p},
                                     {DeviceState::running_p2p, DeviceState::running}}));
  // A failure in a hidden state ends in one that the client knows: where it came from.
  toy_->fail_transition_to(DeviceState::stop, EIO);
  EXPECT_FALSE(migration->set_state(DeviceState::stop));
  EXPECT_EQ(*migration->state(), DeviceState::running);
  toy_->fail_transition_to(DeviceState::running, EIO);
  ASSERT_TRUE(migration->set_state(DeviceState::stop));
  EXPECT_FALSE(migration->set_state(DeviceState::running));
  EXPECT_EQ(*migration->state(), DeviceState::stop);
}

TEST_F(MigrationChoice, ADeviceThatCanGoNowhereFromAHiddenStateIsInError) {
  ServerOptions options;
  options.migration_features_mask = ~vfio::kMigrationP2p;
  const auto device = offer(options);
  auto* migration = device->migration();
  toy_->hold();
  auto stopping = std::async(std::launch::async, [&] { return migration->set_state(DeviceState::stop); });
  ASSERT_TRUE(eventually([&] { return toy_->holds_something(); }));
  toy_->fail_every_transition(EIO);
  toy_->release();
  EXPECT_FALSE(stopping.get());
  EXPECT_EQ(*migration->state(), DeviceState::error);
  toy_->fail_no_transition();
  ASSERT_TRUE(device->reset());
  EXPECT_EQ(*migration->state(), DeviceState::running);
}

TEST_F(MigrationChoice, WithoutPreCopyEverythingGoesWhileTheDeviceIsStopped) {
  ServerOptions options;
  options.migration_features_mask = ~vfio::kMigrationPreCopy;
  const auto device = offer(options);
  auto* migration = device->migration();
  ASSERT_NE(migration, nullptr);
  EXPECT_EQ(migration->features(), vfio::kMigrationStopCopy | vfio::kMigrationP2p);
  EXPECT_FALSE(migration->set_state(DeviceState::pre_copy));
  const auto info = migration->precopy_info();
  EXPECT_TRUE(info && !*info) << "not even the question is known";
  EXPECT_EQ(**migration->stop_copy_size(), ToyDevice::kStateSize + 8);
  EXPECT_TRUE(migration->set_state(DeviceState::running_p2p));
  EXPECT_TRUE(migration->set_state(DeviceState::stop_copy));
}

TEST_F(MigrationChoice, WithoutADmaLogTheDeviceHasNone) {
  ServerOptions options;
  options.dma_logging = false;
  const auto device = offer(options);
  EXPECT_EQ(device->dma_log(), nullptr);
  EXPECT_NE(device->migration(), nullptr);
}

TEST_F(MigrationChoice, OptionsThatContradictThemselvesAreRefused) {
  ToyDevice toy;
  EventLoop loop("server");
  loop.start_thread();
  const auto refusal = [&](auto change) {
    ServerOptions options;
    options.socket_path = test_socket_path("choice");
    change(options);
    auto server = Server::create(loop, toy, options);
    return server ? "served" : server.error().to_string();
  };
  EXPECT_THAT(refusal([](auto& options) { options.migration_features_mask = vfio::kMigrationP2p; }),
              HasSubstr("stop-copy"));
  for (const std::uint32_t size : {0u, 4095u, 4097u, (64u << 20) + 4096u})
    EXPECT_THAT(refusal([&](auto& options) { options.v1_data_size = size; }), HasSubstr("v1_data_size"));
  EXPECT_EQ(refusal([](auto& options) { options.v1_data_size = 64 << 20; }), "served");
}

}  // namespace
}  // namespace handover::vfio_user
