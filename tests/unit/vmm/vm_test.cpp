#include "handover/vmm/vm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "unit/memory/random_seed.h"
#include "unit/vmm/served_vm.h"

// Machines with real devices behind real sockets, all in this process.

namespace handover::vmm {
namespace {

using test::ServedVm;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr auto kPatience = std::chrono::minutes(3);

GuestOptions busy_guest(std::uint64_t seed = test::random_seed()) {
  return {.working_set = 8 * MiB, .dirty_rate = 20 * MiB, .job_rate = 400, .seed = seed};
}

void expect_sound(ServedVm& machine, std::uint32_t devices) {
  const auto verified = machine.vm->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices, devices);
  const auto report = machine.vm->guest();
  EXPECT_EQ(report.mismatches, 0u);
  EXPECT_EQ(report.interrupts_lost, 0u);
  EXPECT_EQ(report.devices_lost, 0u);
}

TEST(Vm, AGuestDrivesItsDevicesAndEverythingChecksOut) {
  ServedVm machine(2, false, busy_guest());
  EXPECT_THAT(machine.vm->blockers().reasons(), IsEmpty());
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.do_jobs(300));
  expect_sound(machine, 2);
  const auto devices = machine.vm->devices();
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[1].path, "0000:00:02.0");
  EXPECT_TRUE(devices[1].migratable);
  EXPECT_TRUE(devices[1].dma_log);
}

TEST(Vm, PausedAndContinuedItLosesNothing) {
  ServedVm machine(1, false, busy_guest());
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.do_jobs(30));
    ASSERT_TRUE(machine.vm->loop().call([&] { return machine.vm->machine().stop(RunState::paused); }));
    const auto verified = machine.vm->verify(kPatience);
    ASSERT_TRUE(verified) << verified.error().to_string();
  }
  ASSERT_TRUE(machine.start());
  expect_sound(machine, 1);
}

TEST(Vm, MigratedUnderLoadTheGuestGoesOnAndChecksOut) {
  const auto guest = busy_guest();
  auto source = std::make_unique<ServedVm>(2, false, guest);
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(source->do_jobs(200));
  for (int hop = 0; hop < 2; ++hop) {
    auto destination = std::make_unique<ServedVm>(2, true, GuestOptions{.working_set = 0, .seed = 5});
    test::ChannelPair channels;
    Destination incoming(destination->vm->machine(), {});
    incoming.start(std::move(channels.second));
    Source::Options options;
    options.parameters.downtime_limit_ms = 60'000;  // on any machine, however slow, it comes to an end
    Source outgoing(source->vm->machine(), &source->vm->ram(), options);
    outgoing.start(std::move(channels.first));
    ASSERT_EQ(outgoing.wait(), MigrationStatus::completed) << outgoing.statistics().error;
    ASSERT_EQ(incoming.wait(), MigrationStatus::completed) << incoming.error();
    EXPECT_EQ(source->vm->machine().state(), RunState::postmigrate);
    EXPECT_EQ(destination->vm->machine().state(), RunState::running);
    EXPECT_GE(destination->vm->guest().jobs_completed, source->vm->guest().jobs_completed);
    EXPECT_EQ(destination->vm->guest().working_set_bytes, guest.working_set)
        << "settings travel with the guest";
    ASSERT_TRUE(destination->do_jobs(100));
    expect_sound(*destination, 2);
    source = std::move(destination);
  }
}

TEST(Vm, AMigrationThatIsCancelledLeavesTheGuestWhole) {
  std::mt19937_64 random(test::random_seed());
  ServedVm machine(2, false, busy_guest());
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.do_jobs(50));
  for (int round = 0; round < 4; ++round) {
    test::ChannelPair channels;
    ServedVm destination(2, true, {});
    Destination incoming(destination.vm->machine(), {});
    incoming.start(std::move(channels.second));
    Source::Options options;
    options.parameters.max_bandwidth = 40 * MiB;
    options.parameters.downtime_limit_ms = random() % 2 == 0 ? 0 : 300;
    Source outgoing(machine.vm->machine(), &machine.vm->ram(), options);
    outgoing.start(std::move(channels.first));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 400));
    if (!outgoing.cancel()) break;  // it had committed
    const auto ended = outgoing.wait();
    if (ended == MigrationStatus::completed) break;
    EXPECT_EQ(machine.vm->machine().state(), RunState::running) << outgoing.statistics().error;
    ASSERT_TRUE(machine.do_jobs(50));
    expect_sound(machine, 2);
    EXPECT_NE(destination.vm->machine().state(), RunState::running);
  }
}

TEST(Vm, AnotherMachineIsRefusedBeforeMemoryMoves) {
  ServedVm machine(1, false, busy_guest());
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.do_jobs(20));
  ServedVm destination(1, true, {}, 64 * MiB);
  test::ChannelPair channels;
  Destination incoming(destination.vm->machine(), {});
  incoming.start(std::move(channels.second));
  Source outgoing(machine.vm->machine(), &machine.vm->ram(), {});
  outgoing.start(std::move(channels.first));
  EXPECT_EQ(incoming.wait(), MigrationStatus::failed);
  EXPECT_THAT(incoming.error(), HasSubstr("start the destination with --memory 32M"));
  EXPECT_EQ(outgoing.wait(), MigrationStatus::failed);
  EXPECT_EQ(machine.vm->machine().state(), RunState::running);
  expect_sound(machine, 1);
}

TEST(Vm, AGuestWhoseDeviceDiesGoesOnAndTheMachineCannotMigrate) {
  ServedVm machine(2, false, busy_guest());
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.do_jobs(50));
  machine.servers[0]->server.reset();
  ASSERT_TRUE(machine.wait_for([&] { return machine.vm->guest().devices_lost == 1; }));
  ASSERT_TRUE(machine.wait_for([&] { return !machine.vm->blockers().reasons().empty(); }));
  EXPECT_THAT(machine.vm->blockers().reasons(),
              ElementsAre(AllOf(HasSubstr("`accel0`"), HasSubstr("is lost"))));
  EXPECT_TRUE(machine.vm->devices()[0].lost);
  EXPECT_FALSE(machine.vm->devices()[1].lost);
  ASSERT_TRUE(machine.do_jobs(50)) << "the other device works on";
  const auto verified = machine.vm->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices, 1u);
  EXPECT_EQ(verified->devices_lost, 1u);
}

TEST(Vm, ADeviceThatNobodyServesIsNamed) {
  test::TemporaryFolder folder;
  VmConfig config{
      .memory = 32 * MiB, .devices = {{.id = "nic7", .socket = folder.file("nobody")}}, .guest = {}};
  const auto made = Vm::create(config);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().to_string(), AllOf(HasSubstr("nic7"), HasSubstr(folder.file("nobody"))));
}

TEST(Vm, MadeAndDestroyedWithoutEverRunning) {
  ServedVm machine(1, true, {});
  EXPECT_EQ(machine.vm->machine().state(), RunState::inmigrate);
  EXPECT_FALSE(machine.vm->verify(kPatience)) << "there is nothing to verify yet";
  std::vector<std::string> sections;
  for (const auto* item : machine.vm->machine().migratables())
    sections.push_back(item->section_name());
  EXPECT_THAT(sections, ElementsAre("handover-machine", "ram", "synthetic-vcpu", "0000:00:01.0/vfio"));
}

}  // namespace
}  // namespace handover::vmm
