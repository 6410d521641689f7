// Several devices in one machine: peer to peer DMA, the order in which they stop, what blocks a migration.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "unit/memory/random_seed.h"
#include "unit/vmm/served_vm.h"

namespace handover::vmm {
namespace {

using test::migrate;
using test::ServedOptions;
using test::ServedVm;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using vfio::DeviceState;

constexpr auto kPatience = std::chrono::minutes(3);
constexpr std::uint64_t kNoP2p = vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;

VmConfig machine(bool incoming = false, bool p2p = true) {
  const GuestOptions guest{
      .working_set = 4 * MiB, .dirty_rate = 10 * MiB, .job_rate = 800, .seed = test::random_seed()};
  return {.memory = 32 * MiB, .devices = {}, .guest = guest, .p2p = p2p, .incoming = incoming};
}

void expect_sound(ServedVm& machine) {
  const auto verified = machine.vm->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  const auto report = machine.vm->guest();
  EXPECT_EQ(report.mismatches, 0u);
  EXPECT_EQ(report.devices_lost, 0u);
}

bool do_p2p_jobs(const ServedVm& machine, std::uint64_t count) {
  const auto end = machine.vm->guest().p2p_jobs + count;
  return machine.wait_for([&] {
    const auto now = machine.vm->guest();
    return now.p2p_jobs >= end || !now.panic.empty();
  });
}

TEST(VmPeers, DevicesReachEachOtherAndNothingIsLostOnTheWay) {
  auto source = std::make_unique<ServedVm>(std::vector<ServedOptions>(3), machine());
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(do_p2p_jobs(*source, 100));
  expect_sound(*source);
  for (int hop = 0; hop < 2; ++hop) {
    auto destination = std::make_unique<ServedVm>(std::vector<ServedOptions>(3), machine(true));
    ASSERT_TRUE(do_p2p_jobs(*source, 20));
    const auto ended = migrate(*source, *destination);
    ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.error;
    EXPECT_GE(destination->vm->guest().p2p_jobs, source->vm->guest().p2p_jobs);
    ASSERT_TRUE(do_p2p_jobs(*destination, 50));
    expect_sound(*destination);
    EXPECT_EQ(destination->vm->guest().p2p_faults, 0u);
    source = std::move(destination);
  }
}

// Mission C8.
TEST(VmPeers, WithPeerToPeerOffNoDeviceReachesAnother) {
  ServedVm source(std::vector<ServedOptions>(2), machine(false, false));
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.wait_for([&] { return source.vm->guest().p2p_faults >= 3; }));
  EXPECT_EQ(source.vm->guest().p2p_jobs, 0u);
  expect_sound(source);
  ServedVm destination(std::vector<ServedOptions>(2), machine(true, false));
  const auto ended = migrate(source, destination);
  ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.error;
  const auto arrived = destination.vm->guest().p2p_faults;
  ASSERT_TRUE(destination.wait_for([&] { return destination.vm->guest().p2p_faults > arrived; }));
  expect_sound(destination);
}

TEST(VmPeers, AMachineWithoutPeerToPeerDoesNotFitOneWithIt) {
  ServedVm source(std::vector<ServedOptions>(1), machine(false, false));
  ASSERT_TRUE(source.start());
  ServedVm destination(std::vector<ServedOptions>(1), machine(true, true));
  const auto ended = migrate(source, destination);
  EXPECT_EQ(ended.source, MigrationStatus::failed);
  EXPECT_THAT(ended.error, HasSubstr("--p2p off"));
  EXPECT_EQ(source.vm->machine().state(), RunState::running);
}

// Position of the first entry with one of the states, and of the last device to reach one.
struct Reached {
  std::size_t first = SIZE_MAX;
  std::size_t all = 0;
  std::set<std::string> devices;
};
Reached reached(const std::vector<test::TransitionLog::Entry>& log, const std::set<DeviceState>& states) {
  Reached found;
  for (std::size_t i = 0; i < log.size(); ++i) {
    if (!states.contains(log[i].second)) continue;
    found.first = std::min(found.first, i);
    if (found.devices.insert(log[i].first).second) found.all = i;
  }
  return found;
}

void expect_two_phases(const std::vector<test::TransitionLog::Entry>& log, const std::set<DeviceState>& quiet,
                       const std::set<DeviceState>& then, const char* when) {
  const auto first = reached(log, quiet);
  const auto second = reached(log, then);
  EXPECT_EQ(first.devices.size(), 3u) << when;
  EXPECT_EQ(second.devices.size(), 3u) << when;
  EXPECT_LT(first.all, second.first) << when << ": a device moved on before all were quiet to each other";
}

// Mission C6: all are quiet to each other before any is stopped, and before any runs.
TEST(VmPeers, AllDevicesAreQuietToEachOtherBeforeAnyStopsAndBeforeAnyRuns) {
  test::TransitionLog here;
  test::TransitionLog there;
  ServedVm source(std::vector<ServedOptions>(3, {.log = &here}), machine());
  ServedVm destination(std::vector<ServedOptions>(3, {.log = &there}), machine(true));
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(do_p2p_jobs(source, 20));
  here.take();

  const std::set stopped{DeviceState::stop, DeviceState::stop_copy};
  ASSERT_TRUE(source.vm->loop().call([&] { return source.vm->machine().stop(RunState::paused); }));
  expect_two_phases(here.take(), {DeviceState::running_p2p}, stopped, "pausing");
  ASSERT_TRUE(source.start());
  expect_two_phases(here.take(), {DeviceState::running_p2p}, {DeviceState::running}, "continuing");

  const auto ended = migrate(source, destination);
  ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.error;
  expect_two_phases(here.take(), {DeviceState::pre_copy_p2p}, stopped, "leaving");
  auto arrival = there.take();
  const auto resumed = std::ranges::find(arrival, DeviceState::resuming, &test::TransitionLog::Entry::second);
  arrival.erase(arrival.begin(), resumed);
  expect_two_phases(arrival, {DeviceState::running_p2p}, {DeviceState::running}, "arriving");
}

// Mission C6 and C7.
TEST(VmPeers, OneDeviceOfSeveralWithoutP2pBlocksAndIsNamed) {
  ServedVm mixed({{}, {.features = kNoP2p}}, machine());
  EXPECT_THAT(mixed.vm->blockers().reasons(),
              ElementsAre(AllOf(HasSubstr("`accel1`"), HasSubstr("--p2p off"))));
  EXPECT_THAT(mixed.vm->devices()[1].blocker, HasSubstr("P2P"));
  EXPECT_THAT(mixed.vm->devices()[0].blocker, IsEmpty());
  ServedVm alone({{.features = kNoP2p}}, machine());
  EXPECT_THAT(alone.vm->blockers().reasons(), IsEmpty());
  EXPECT_THAT(alone.vm->devices()[0].blocker, IsEmpty());
}

// Mission C8.
TEST(VmPeers, WithPeerToPeerOffAMixedMachineMigrates) {
  const std::vector<ServedOptions> mixed{{}, {.features = kNoP2p}};
  ServedVm source(mixed, machine(false, false));
  EXPECT_THAT(source.vm->blockers().reasons(), IsEmpty());
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.do_jobs(50));
  ServedVm destination(mixed, machine(true, false));
  const auto ended = migrate(source, destination);
  ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.error;
  ASSERT_TRUE(destination.do_jobs(50));
  expect_sound(destination);
}

TEST(VmPeers, DevicesThatCannotMigrateBlockInAnyCase) {
  ServedVm machine_of({{}, {.features = 0}}, machine(false, false));
  EXPECT_THAT(machine_of.vm->blockers().reasons(),
              ElementsAre(AllOf(HasSubstr("`accel1`"), HasSubstr("cannot migrate"))));
  EXPECT_EQ(machine_of.vm->devices()[1].protocol, "none");
  EXPECT_EQ(machine_of.vm->devices()[0].protocol, "v2");
}

TEST(VmPeers, AGuestWhosePeerDiesGoesOn) {
  ServedVm machine_of(std::vector<ServedOptions>(3), machine());
  ASSERT_TRUE(machine_of.start());
  ASSERT_TRUE(do_p2p_jobs(machine_of, 30));
  machine_of.servers[1]->server.reset();
  ASSERT_TRUE(machine_of.wait_for([&] { return machine_of.vm->guest().devices_lost == 1; }));
  ASSERT_TRUE(do_p2p_jobs(machine_of, 30));
  const auto verified = machine_of.vm->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices, 2u);
}

}  // namespace
}  // namespace handover::vmm
