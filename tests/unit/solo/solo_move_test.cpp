#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "handover/solo/private_socket.h"
#include "unit/solo/solo_rig.h"

namespace handover::solo {
namespace {

using namespace test;
using testing::Contains;
using testing::ElementsAre;
using testing::Not;

constexpr std::uint64_t kStopCopy = vfio::kMigrationStopCopy;
constexpr std::uint64_t kP2p = vfio::kMigrationP2p;
constexpr std::uint64_t kPreCopy = vfio::kMigrationPreCopy;
constexpr std::uint64_t kKinds[] = {kStopCopy, kStopCopy | kP2p, kStopCopy | kPreCopy,
                                    kStopCopy | kP2p | kPreCopy};

TEST(SoloMove, WhatIsSavedIsWhatIsLoadedForEveryKindOfDevice) {
  for (const auto features : kKinds) {
    for (const bool use_precopy : {true, false}) {
      const TempFolder folder;
      ServedToy here(folder / "here", features);
      ServedToy there(folder / "there", features);
      here.model.set_state(content(1));
      Solo from(here.socket, {.use_precopy = use_precopy});
      const auto stream = save(from);
      EXPECT_EQ(here.server->device_state(), DeviceState::stop);
      ASSERT_TRUE(from->run());
      EXPECT_EQ(here.server->device_state(), DeviceState::running) << "a device that was saved runs on";
      EXPECT_EQ(from->states().visited(DeviceState::pre_copy), use_precopy && (features & kPreCopy) != 0);

      Solo into(there.socket, {.side = Side::destination});
      const auto loaded = load(into, stream);
      EXPECT_EQ(loaded.status, MigrationStatus::completed) << loaded.error;
      EXPECT_EQ(there.server->device_state(), DeviceState::running);
      EXPECT_EQ(there.model.state(), content(1));
      EXPECT_GT(into->figures().loaded_bytes, content(1).size());
      EXPECT_EQ(from->figures().precopy_bytes + from->figures().stop_bytes, into->figures().loaded_bytes);
    }
  }
}

TEST(SoloMove, ADeviceWithoutPreCopyIsReadStoppedHoweverSmallTheLimit) {
  const TempFolder folder;
  ServedToy here(folder / "here", kStopCopy);
  Solo from(here.socket, {.downtime_limit_ms = 0});
  save(from);
  EXPECT_THAT(visited(*from), ElementsAre(DeviceState::running, DeviceState::stop, DeviceState::stop_copy,
                                          DeviceState::stop));
}

TEST(SoloMove, SoManyRoundsAreMadeAsWereAskedFor) {
  for (const std::uint32_t rounds : {1u, 2u, 7u}) {
    const TempFolder folder;
    ServedToy here(folder / "here");
    Solo from(here.socket, {.rounds = rounds});
    save(from);
    const auto figures = from->figures();
    EXPECT_EQ(figures.round_count, rounds);
    ASSERT_EQ(figures.rounds.size(), rounds);
    EXPECT_GT(figures.rounds[0].initial_bytes, vfio_user::ToyDevice::kStateSize);
    EXPECT_EQ(figures.rounds[0].bytes, figures.rounds[0].initial_bytes);
    for (std::size_t i = 1; i < rounds; ++i)
      EXPECT_TRUE(figures.rounds[i].ran_dry && figures.rounds[i].bytes == 0) << i;
    EXPECT_EQ(figures.stop_told_bytes, vfio_user::ToyDevice::kStateSize + 8);
    EXPECT_TRUE(figures.stop_expected_ms) << "150000 bytes are enough to tell a rate by";
    EXPECT_THAT(visited(*from),
                ElementsAre(DeviceState::running, DeviceState::pre_copy, DeviceState::pre_copy_p2p,
                            DeviceState::stop_copy, DeviceState::stop));
  }
}

TEST(SoloMove, AStoppedDeviceIsSavedWhereItIsAndStaysThere) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  {
    Solo stopper(here.socket, {});
    ASSERT_TRUE(stopper.device->migration()->set_state(DeviceState::stop));
  }
  here.model.take_arcs();
  Solo from(here.socket, {});
  EXPECT_EQ(from->found_in(), DeviceState::stop);
  const auto stream = save(from);
  EXPECT_THAT(here.model.take_arcs(), ElementsAre(std::pair(DeviceState::stop, DeviceState::stop_copy),
                                                  std::pair(DeviceState::stop_copy, DeviceState::stop)));

  // It arrives stopped, and runs when that is wanted.
  ServedToy there(folder / "there");
  Solo into(there.socket, {.side = Side::destination});
  ASSERT_EQ(load(into, stream).status, MigrationStatus::completed);
  EXPECT_EQ(there.server->device_state(), DeviceState::stop);
  ASSERT_TRUE(into->run());
  EXPECT_EQ(there.server->device_state(), DeviceState::running);
}

TEST(SoloMove, ADeviceThatIsLoadedCanStayStopped) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  Solo from(here.socket, {});
  const auto stream = save(from);
  Solo into(there.socket, {.side = Side::destination});
  ASSERT_EQ(load(into, stream, true).status, MigrationStatus::completed);
  EXPECT_EQ(there.server->device_state(), DeviceState::stop);
}

/// Both sides in this process, over channels of a private socket.
void move_over(std::uint64_t channels, bool acknowledged) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  here.model.set_state(content(channels));
  Solo from(here.socket, {.rounds = 2});
  Solo into(there.socket, {.side = Side::destination});
  const auto socket = PrivateSocket::create().value();
  Destination destination(into->machine(), {});
  destination.start(listen_on(socket.address()).value());
  auto options = source_options(*from);
  options.capabilities.multifd = channels > 0;
  options.parameters.multifd_channels = std::max<std::uint64_t>(channels, 1);
  options.capabilities.switchover_ack = acknowledged;
  Source source(from->machine(), nullptr, std::move(options));
  source.start(socket.address());
  ASSERT_EQ(source.wait(), MigrationStatus::completed) << source.statistics().error;
  ASSERT_EQ(destination.wait(), MigrationStatus::completed) << destination.error();
  EXPECT_EQ(here.server->device_state(), DeviceState::stop) << "one runner";
  EXPECT_EQ(there.server->device_state(), DeviceState::running);
  EXPECT_EQ(there.model.state(), content(channels));
  const auto statistics = source.statistics();
  EXPECT_EQ(statistics.multifd_channels, channels);
  // What is read stopped goes over the channels.
  EXPECT_EQ(statistics.multifd_bytes > vfio_user::ToyDevice::kStateSize, channels > 0);
  EXPECT_EQ(statistics.switchover_acks, acknowledged ? 1u : 0u);
}

TEST(SoloMove, ADeviceMovesOverOneConnection) {
  move_over(0, false);
}
TEST(SoloMove, ADeviceMovesOverOneMultifdChannel) {
  move_over(1, true);
}
TEST(SoloMove, ADeviceMovesOverFourMultifdChannels) {
  move_over(4, false);
}

TEST(SoloMove, ACancelInPreCopyLeavesTheDeviceRunning) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  Solo from(here.socket, {.rounds = UINT32_MAX});
  Source source(from->machine(), nullptr, source_options(*from));
  source.start(file_address(folder / "state"));
  while (from->figures().round_count < 2)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(source.cancel());
  EXPECT_EQ(source.wait(), MigrationStatus::cancelled);
  EXPECT_EQ(here.server->device_state(), DeviceState::running);
  EXPECT_THAT(visited(*from), ElementsAre(DeviceState::running, DeviceState::pre_copy, DeviceState::running));
}

TEST(SoloMove, ADeviceThatDoesNotStopRunsOn) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  here.model.fail_transition_to(DeviceState::stop_copy, EIO);
  Solo from(here.socket, {});
  Source source(from->machine(), nullptr, source_options(*from));
  source.start(file_address(folder / "state"));
  EXPECT_EQ(source.wait(), MigrationStatus::failed);
  EXPECT_THAT(source.statistics().error, testing::HasSubstr("stop-copy"));
  EXPECT_EQ(here.server->device_state(), DeviceState::running);
}

}  // namespace
}  // namespace handover::solo
