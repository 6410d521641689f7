#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/memory/random_seed.h"
#include "unit/vmm/served_vm.h"

namespace handover::vmm {
namespace {

using test::ServedVm;
using testing::HasSubstr;

GuestOptions busy_guest() {
  return {.working_set = 8 * MiB, .dirty_rate = 20 * MiB, .job_rate = 2000, .seed = 77};
}

/// A migration over multifd channels and a socket of its own.
struct ParallelMove {
  ParallelMove(ServedVm& from, ServedVm& to, std::uint64_t channels, Source::Options options = {},
               Destination::Options incoming_options = {})
      : incoming(to.vm->machine(), std::move(incoming_options)),
        outgoing(from.vm->machine(), &from.vm->ram(), with(std::move(options), channels)) {
    const auto address = Address::parse("unix:" + folder.file("migration"));
    incoming.start(listen_on(*address).value());
    outgoing.start(*address);
  }
  static Source::Options with(Source::Options options, std::uint64_t channels) {
    options.capabilities.multifd = channels > 0;
    if (channels > 0) options.parameters.multifd_channels = channels;
    options.parameters.downtime_limit_ms = 60'000;
    return options;
  }
  test::TemporaryFolder folder;
  Destination incoming;
  Source outgoing;
};

void expect_sound(ServedVm& machine, std::uint32_t devices) {
  const auto verified = machine.vm->verify(std::chrono::minutes(3));
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices, devices);
  EXPECT_EQ(machine.vm->guest().mismatches, 0u);
}

TEST(ParallelMove, SeveralDevicesMoveOverAnyNumberOfChannels) {
  for (const std::uint64_t channels : {1, 3, 8}) {
    auto source = std::make_unique<ServedVm>(3, false, busy_guest());
    ASSERT_TRUE(source->start());
    ASSERT_TRUE(source->do_jobs(200));
    for (int hop = 0; hop < 2; ++hop) {
      auto destination = std::make_unique<ServedVm>(3, true, GuestOptions{.working_set = 0, .seed = 5});
      Source::Options options;
      options.capabilities.switchover_ack = true;
      ParallelMove move(*source, *destination, channels, std::move(options));
      ASSERT_EQ(move.outgoing.wait(), MigrationStatus::completed) << move.outgoing.statistics().error;
      ASSERT_EQ(move.incoming.wait(), MigrationStatus::completed) << move.incoming.error();
      const auto figures = move.outgoing.statistics();
      EXPECT_EQ(figures.multifd_channels, channels);
      EXPECT_GT(figures.multifd_bytes, 8 * MiB) << "the guest has written that much RAM";
      EXPECT_EQ(figures.switchover_acks, 3u) << "one a device with pre-copy";
      EXPECT_EQ(destination->vm->machine().state(), RunState::running);
      ASSERT_TRUE(destination->do_jobs(100));
      expect_sound(*destination, 3);
      source = std::move(destination);
    }
  }
}

TEST(ParallelMove, WithoutAnswersDeviceStateTravelsInTheStream) {
  ServedVm source(2, false, busy_guest());
  ServedVm destination(2, true, {});
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.do_jobs(50));
  Source::Options options;
  options.capabilities.return_path = false;
  ParallelMove move(source, destination, 2, std::move(options));
  ASSERT_EQ(move.outgoing.wait(), MigrationStatus::completed) << move.outgoing.statistics().error;
  ASSERT_EQ(move.incoming.wait(), MigrationStatus::completed) << move.incoming.error();
  ASSERT_TRUE(destination.do_jobs(50));
  expect_sound(destination, 2);
}

TEST(ParallelMove, APausedMachineArrivesPaused) {
  ServedVm source(2, false, busy_guest());
  ServedVm destination(2, true, {});
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.do_jobs(50));
  ASSERT_TRUE(source.vm->loop().call([&] { return source.vm->machine().stop(RunState::paused); }));
  Source::Options options;
  options.capabilities.switchover_ack = true;
  ParallelMove move(source, destination, 4, std::move(options));
  ASSERT_EQ(move.outgoing.wait(), MigrationStatus::completed) << move.outgoing.statistics().error;
  ASSERT_EQ(move.incoming.wait(), MigrationStatus::completed) << move.incoming.error();
  EXPECT_EQ(destination.vm->machine().state(), RunState::paused);
  ASSERT_TRUE(destination.vm->loop().call([&] { return destination.vm->machine().start(); }));
  ASSERT_TRUE(destination.do_jobs(50));
  expect_sound(destination, 2);
}

TEST(ParallelMove, CancelledAtAnyTimeTheGuestIsWhole) {
  std::mt19937_64 random(test::random_seed());
  ServedVm machine(2, false, busy_guest());
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.do_jobs(50));
  for (int round = 0; round < 6; ++round) {
    ServedVm destination(2, true, {});
    Source::Options options;
    options.parameters.max_bandwidth = 40 * MiB;
    ParallelMove move(machine, destination, 1 + random() % 4, std::move(options));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 400));
    const bool here = random() % 2 == 0;
    if (!(here ? move.outgoing.cancel() : move.incoming.cancel())) break;  // it had committed
    const auto ended = move.outgoing.wait();
    if (ended == MigrationStatus::completed) break;
    EXPECT_EQ(machine.vm->machine().state(), RunState::running) << move.outgoing.statistics().error;
    ASSERT_TRUE(machine.do_jobs(50));
    expect_sound(machine, 2);
    EXPECT_NE(destination.vm->machine().state(), RunState::running);
  }
}

TEST(ParallelMove, ADestinationThatDiesIsAFailureAndTheSourceRunsOn) {
  ServedVm machine(2, false, busy_guest());
  ASSERT_TRUE(machine.start());
  auto destination = std::make_unique<ServedVm>(2, true, GuestOptions{});
  Source::Options options;
  options.parameters.max_bandwidth = 10 * MiB;
  ParallelMove move(machine, *destination, 3, std::move(options));
  ASSERT_TRUE(machine.wait_for([&] { return move.outgoing.statistics().multifd_bytes > 1 * MiB; }));
  destination->servers[1]->server.reset();
  EXPECT_EQ(move.outgoing.wait(), MigrationStatus::failed);
  EXPECT_EQ(move.incoming.wait(), MigrationStatus::failed);
  EXPECT_THAT(move.incoming.error(), HasSubstr("accel1"));
  EXPECT_EQ(machine.vm->machine().state(), RunState::running);
  ASSERT_TRUE(machine.do_jobs(50));
  expect_sound(machine, 2);
}

struct Variant {
  std::string name;
  vfio_user::ServerOptions served;
};

std::vector<Variant> variants() {
  using vfio_user::MigrationInterface;
  std::vector<Variant> all{
      {"protocol v1", {.socket_path = {}, .migration = MigrationInterface::v1}},
      {"protocol v1, small chunks, not mapped", {.socket_path = {}, .migration = MigrationInterface::v1}},
      {"without pre-copy", {}},
      {"without P2P", {}},
      {"without either", {}},
      {"without a DMA log", {}}};
  all[1].served.v1_data_size = 64 * KiB;
  all[1].served.v1_data_mappable = false;
  all[2].served.migration_features_mask = ~vfio::kMigrationPreCopy;
  all[3].served.migration_features_mask = ~vfio::kMigrationP2p;
  all[4].served.migration_features_mask = vfio::kMigrationStopCopy;
  all[5].served.dma_logging = false;
  return all;
}

TEST(ParallelMove, WhateverADeviceSupportsItMoves) {
  for (const auto& variant : variants())
    for (const std::uint64_t channels : {0, 2}) {
      SCOPED_TRACE(fmt::format("{}, {} channels", variant.name, channels));
      // One device, which may do without P2P.
      ServedVm source(1, false, busy_guest(), 32 * MiB, 2 * MiB, variant.served);
      ServedVm destination(1, true, {}, 32 * MiB, 2 * MiB, variant.served);
      ASSERT_TRUE(source.start());
      ASSERT_TRUE(source.do_jobs(50));
      Source::Options options;
      options.capabilities.switchover_ack = true;
      options.parameters.max_bandwidth = 0;
      ParallelMove move(source, destination, channels, std::move(options));
      ASSERT_EQ(move.outgoing.wait(), MigrationStatus::completed) << move.outgoing.statistics().error;
      ASSERT_EQ(move.incoming.wait(), MigrationStatus::completed) << move.incoming.error();
      const bool pre_copy = source.vm->devices()[0].migration_features & vfio::kMigrationPreCopy;
      EXPECT_EQ(move.outgoing.statistics().switchover_acks, pre_copy ? 1u : 0u);
      ASSERT_TRUE(destination.do_jobs(50));
      expect_sound(destination, 1);
    }
}

// A chunk of the source must fit the destination, which says so.
TEST(ParallelMove, ChunksThatDoNotFitTheDestinationAreRefusedAndTheSourceRunsOn) {
  vfio_user::ServerOptions wide{.socket_path = {}, .migration = vfio_user::MigrationInterface::v1};
  auto narrow = wide;
  wide.v1_data_size = 4 * MiB;
  narrow.v1_data_size = 64 * KiB;
  for (const std::uint64_t channels : {0, 2}) {
    ServedVm source(1, false, busy_guest(), 32 * MiB, 8 * MiB, wide);
    ServedVm destination(1, true, {}, 32 * MiB, 8 * MiB, narrow);
    ASSERT_TRUE(source.start());
    ASSERT_TRUE(source.do_jobs(300));
    ParallelMove move(source, destination, channels);
    EXPECT_EQ(move.outgoing.wait(), MigrationStatus::failed);
    EXPECT_EQ(move.incoming.wait(), MigrationStatus::failed);
    EXPECT_THAT(move.incoming.error(), HasSubstr("accel0"));
    EXPECT_EQ(source.vm->machine().state(), RunState::running);
    expect_sound(source, 1);
  }
}

// The device takes its state more slowly than it comes; what waits stays within the bound all the same.
TEST(ParallelMove, WhatWaitsForASlowDeviceStaysWithinTheBound) {
  constexpr std::uint64_t kBound = 3 * MiB;
  ServedVm source(1, false, busy_guest(), 32 * MiB, 24 * MiB);
  ServedVm destination(1, true, {}, 32 * MiB, 24 * MiB);
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.do_jobs(500));
  ASSERT_TRUE(source.vm->loop().call([&] { return source.vm->machine().stop(RunState::paused); }));
  Destination::Options options;
  options.parameters.max_queued_buffers_size = kBound;
  ParallelMove move(source, destination, 4, {}, std::move(options));
  // Whatever else the loop of the device does, it does instead of loading.
  std::atomic<bool> done{false};
  std::thread distraction([&] {
    while (!done)
      destination.servers[0]->loop.call([] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); });
  });
  const auto ended = move.outgoing.wait();
  done = true;
  distraction.join();
  ASSERT_EQ(ended, MigrationStatus::completed) << move.outgoing.statistics().error;
  ASSERT_EQ(move.incoming.wait(), MigrationStatus::completed) << move.incoming.error();
  const auto& items = destination.vm->machine().migratables();
  const auto counters = items.back()->counters();
  EXPECT_GT(counters.bytes, 2 * kBound) << "else there was nothing to bound";
  EXPECT_GT(counters.queued_peak, 0u);
  EXPECT_LE(counters.queued_peak, kBound);
}

TEST(ParallelMove, AFileHasNoOtherChannels) {
  ServedVm machine(1, false, busy_guest());
  ASSERT_TRUE(machine.start());
  Source::Options options;
  options.capabilities.multifd = true;
  Source outgoing(machine.vm->machine(), &machine.vm->ram(), options);
  outgoing.start(*Address::parse("exec:cat > /dev/null"));
  EXPECT_EQ(outgoing.wait(), MigrationStatus::failed);
  EXPECT_THAT(outgoing.statistics().error, HasSubstr("multifd needs a socket"));
  EXPECT_EQ(machine.vm->machine().state(), RunState::running);
}

}  // namespace
}  // namespace handover::vmm
