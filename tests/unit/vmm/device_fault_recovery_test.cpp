// What a failure of a device leaves behind: nothing that stands in the way of what a person does next.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vmm/device_fault_rig.h"

namespace handover::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using vfio::DeviceState;

// A machine that a person has paused: nothing of a failed migration stays with its devices.
TEST(DeviceFaultStates, AfterAFailedMigrationAPausedMachineCanBeMigratedAgain) {
  auto machine = running_machine(2);
  ASSERT_TRUE(machine->stop());
  const std::pair<Call, std::uint64_t> kFaults[] = {
      {Call::set_state, 1}, {Call::set_state, 2}, {Call::read, 1}, {Call::log_report, 2}};
  for (const auto& [call, n] : kFaults)
    for (const bool multifd : {false, true}) {
      SCOPED_TRACE(testing::Message() << to_string(call) << " " << n << (multifd ? ", multifd" : ""));
      auto to = FaultyVm::make(2, true, machine->runners);
      machine->plan->arm(call, n, Fault::refused);
      FaultyMove move(*machine, *to, multifd);
      move.wait();
      EXPECT_EQ(move.outgoing.status(), MigrationStatus::failed);
      EXPECT_THAT(move.outgoing.statistics().error, HasSubstr(machine->plan->hit()));
      EXPECT_EQ(machine->state(), RunState::paused);
      machine->calm();
      machine->expect_devices_in(DeviceState::stop);
    }
  auto to = FaultyVm::make(2, true, machine->runners);
  FaultyMove move(*machine, *to, false);
  move.wait();
  ASSERT_EQ(move.outgoing.status(), MigrationStatus::completed) << move.outgoing.statistics().error;
  EXPECT_EQ(to->state(), RunState::paused);
  ASSERT_TRUE(to->start());
  to->expect_whole();
}

TEST(DeviceFaultStates, ADmaLogThatDidNotStopDoesNotStandInTheWayOfTheNextMigration) {
  auto machine = running_machine(2);
  for (const auto& [call, n] : {std::pair{Call::log_stop, 1}, {Call::log_stop, 2}, {Call::log_start, 2}}) {
    SCOPED_TRACE(testing::Message() << to_string(call) << " " << n);
    {
      auto to = FaultyVm::make(2, true, machine->runners);
      machine->plan->arm(call, static_cast<std::uint64_t>(n), Fault::refused);
      to->plan->arm(Call::write, 1, Fault::refused);
      FaultyMove move(*machine, *to, false);
      move.wait();
      EXPECT_EQ(move.outgoing.status(), MigrationStatus::failed);
      EXPECT_NE(machine->plan->hit(), "");
      machine->calm();
    }
    machine->expect_whole();
    auto to = FaultyVm::make(2, true, machine->runners);
    {
      FaultyMove move(*machine, *to, false);
      move.wait();
      ASSERT_EQ(move.outgoing.status(), MigrationStatus::completed) << move.outgoing.statistics().error;
    }
    to->expect_whole();
    machine = std::move(to);
  }
}

// A device that cannot even be stopped for good keeps its state: the source may have to run again.
TEST(DeviceFaultStates, ASourceThatWasGivenUpKeepsTheStateOfADeviceThatDoesNotStop) {
  auto from = running_machine(1);
  auto to = FaultyVm::make(1, true, from->runners);
  from->plan->arm(Call::set_state, 4, Fault::stuck);  // PRE_COPY, its P2P, STOP_COPY; then STOP
  to->plan->arm(Call::set_state, 3, Fault::dead);     // RESUMING, STOP; then it starts
  FaultyMove move(*from, *to, false);
  move.wait();
  ASSERT_EQ(move.outgoing.status(), MigrationStatus::in_doubt) << move.outgoing.statistics().error;
  EXPECT_EQ(from->state(), RunState::postmigrate);
  EXPECT_EQ(to->state(), RunState::internal_error);
  from->calm();
  EXPECT_EQ(from->resets(), 0u);
  from->expect_devices_in(DeviceState::stop_copy);
  const auto resolved = move.outgoing.resolve(true);
  ASSERT_TRUE(resolved) << resolved.error().to_string();
  from->expect_whole();
}

TEST(DeviceFaultStates, AMachineWithADeadDeviceIsNotMigratedAndRunsOnceItsResetWorks) {
  auto machine = running_machine(2);
  machine->plan->arm(Call::set_state, 1, Fault::dead);
  EXPECT_FALSE(machine->stop());
  EXPECT_EQ(machine->state(), RunState::internal_error);
  {
    auto to = FaultyVm::make(2, true, machine->runners);
    FaultyMove move(*machine, *to, false);
    move.wait();
    EXPECT_EQ(move.outgoing.status(), MigrationStatus::failed);
    EXPECT_THAT(move.outgoing.statistics().error, AllOf(HasSubstr("accel0"), HasSubstr("dead")));
    EXPECT_EQ(to->state(), RunState::inmigrate);
  }
  EXPECT_EQ(machine->state(), RunState::internal_error);
  EXPECT_FALSE(machine->start());
  EXPECT_EQ(machine->state(), RunState::internal_error);
  machine->devices[0]->heal();
  const auto started = machine->start();
  ASSERT_TRUE(started) << started.error().to_string();
  EXPECT_EQ(machine->resets(), 1u);
  machine->expect_devices_settled();
}

// B3: a failure to restore is reported and leaves the machine stopped; one that was tried with a dead device
// can be tried again when its reset works.
TEST(DeviceFaultStates, ADestinationWhoseDeviceDiedSaysSoAndTheSourceRunsOn) {
  auto from = running_machine(2);
  auto to = FaultyVm::make(2, true, from->runners);
  to->plan->arm(Call::write, 1, Fault::dead);
  {
    FaultyMove move(*from, *to, true);
    move.wait();
    EXPECT_EQ(move.outgoing.status(), MigrationStatus::failed);
    EXPECT_THAT(move.incoming.error(), AllOf(HasSubstr(to->plan->hit()), HasSubstr("dead")));
  }
  EXPECT_EQ(to->state(), RunState::internal_error);
  EXPECT_THAT(to->machine().trouble(), HasSubstr(to->plan->hit()));
  from->expect_whole();
}

// Mission A6 too: what was set up for a device that then fails is taken down.
TEST(DeviceFaultStates, AMachineThatCannotBeMadeNamesTheDeviceAndLeavesNothing) {
  running_machine(2).reset();
  const Holdings before;
  for (const auto call : {Call::config_read, Call::dma_map, Call::reset})
    for (std::uint64_t n = 1;; ++n) {
      SCOPED_TRACE(testing::Message() << to_string(call) << " " << n);
      auto plan = std::make_shared<FaultPlan>();
      plan->arm(call, n, Fault::refused);
      const FaultyVm machine(2, false, std::make_shared<Runners>(), plan);
      if (plan->hit().empty()) {
        EXPECT_TRUE(machine.created);
        EXPECT_GT(n, 2u) << "one a device at least";
        break;
      }
      ASSERT_FALSE(machine.created);
      EXPECT_THAT(machine.created.error().to_string(), HasSubstr(plan->hit()));
    }
  EXPECT_TRUE(FaultyVm::wait_for([&] { return Holdings() == before; }));
}

// What a driver asks of its device at boot is between the two; the machine lives whatever the answer is.
TEST(DeviceFaultStates, AGuestWhoseDeviceRefusesItsSettingsDoesNotHarmTheMachine) {
  for (const auto call : {Call::config_read, Call::config_write, Call::set_irqs, Call::dma_unmap}) {
    std::uint64_t count = 1;
    for (std::uint64_t n = 0; n <= count; n += kSanitized ? 3 : 1) {
      SCOPED_TRACE(testing::Message() << to_string(call) << " " << n);
      auto machine = FaultyVm::make(1, false, std::make_shared<Runners>());
      machine->calm();
      if (n > 0) machine->plan->arm(call, n, Fault::refused);
      ASSERT_TRUE(machine->start());
      ASSERT_TRUE(FaultyVm::wait_for([&] {
        const auto guest = machine->vm->guest();
        return guest.jobs_submitted > 0 || guest.devices_lost > 0 || !guest.panic.empty();
      }));
      if (n == 0) {
        ASSERT_TRUE(machine->do_jobs(20));
        count = machine->plan->count(call);
        if (call == Call::dma_unmap) count = 2;  // that comes when it is taken down
      }
      const auto stopped = machine->stop();
      EXPECT_TRUE(stopped || machine->state() == RunState::guest_panicked) << stopped.error().to_string();
    }
  }
}

}  // namespace
}  // namespace handover::test
