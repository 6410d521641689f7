// Devices that fail where a person stops and starts the machine, where a migration is taken back, and where
// both happen at once.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vmm/device_fault_rig.h"

namespace handover::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using vfio::DeviceState;

constexpr Fault kEveryFault[] = {Fault::refused, Fault::done,  Fault::mute,
                                 Fault::stuck,   Fault::error, Fault::dead};

/// The machine was to run and does, or stands in internal-error and names the device; then it runs as soon as
/// the device can.  Nothing of its state is lost unless it was reset.
void expect_recovers(FaultyVm& machine, const std::string& hit, Fault fault) {
  // It may find out at once that its device has forgotten everything.
  const auto guest_goes_on = [&] { return machine.resets() == 0 || machine.vm->guest().panic.empty(); };
  if (machine.state() != RunState::running && guest_goes_on()) {
    ASSERT_EQ(machine.state(), RunState::internal_error);
    EXPECT_THAT(machine.machine().trouble(), HasSubstr(hit));
    EXPECT_NE(hit, "");
  }
  machine.calm();
  if (fault == Fault::dead && hit != "") {
    ASSERT_EQ(machine.state(), RunState::internal_error);
    EXPECT_THAT(machine.machine().trouble(), AllOf(HasSubstr(hit), HasSubstr("dead")));
    const auto again = machine.start();
    ASSERT_FALSE(again) << "it started with a dead device";
    EXPECT_THAT(again.error().to_string(), HasSubstr(hit));
    ASSERT_EQ(machine.state(), RunState::internal_error);
    for (auto* device : machine.devices)
      device->heal();
  }
  if (machine.state() != RunState::running && guest_goes_on()) {
    const auto again = machine.start();
    ASSERT_TRUE(again) << again.error().to_string();
  }
  if (machine.resets() == 0) return machine.expect_whole();
  EXPECT_TRUE(machine.state() == RunState::running || !guest_goes_on());
  machine.expect_devices_settled();
}

// Mission A3: the run-state listener moves the device when the machine stops and starts.
TEST(DeviceFaultStates, StoppedAndContinuedTheMachineRunsWithSoundDevicesOrNotAtAll) {
  std::unique_ptr<FaultyVm> machine;
  const std::uint64_t changes = 8;  // two devices, over P2P to STOP and back
  for (std::uint64_t n = 1; n <= changes; ++n)
    for (const auto fault : kEveryFault) {
      SCOPED_TRACE(testing::Message() << "change of state " << n << ": " << to_string(fault));
      if (!machine || machine->resets() > 0) machine = running_machine(2);
      machine->plan->arm(Call::set_state, n, fault);
      const auto stopped = machine->stop();
      const auto hit_stopping = machine->plan->hit();
      EXPECT_EQ(stopped.has_value(), hit_stopping.empty());
      if (!stopped) {
        EXPECT_THAT(stopped.error().to_string(), HasSubstr(hit_stopping));
      }
      const bool dead = fault == Fault::dead && hit_stopping != "";
      EXPECT_EQ(machine->state(), dead ? RunState::internal_error : RunState::paused);
      if (!dead) {
        machine->expect_devices_in(DeviceState::stop);
        const auto started = machine->start();
        EXPECT_EQ(machine->plan->count(Call::set_state) >= n, machine->plan->hit() != "");
        if (!started) {
          EXPECT_THAT(started.error().to_string(), HasSubstr(machine->plan->hit()));
        }
      }
      expect_recovers(*machine, machine->plan->hit(), fault);
      if (HasFatalFailure()) return;
    }
}

/// The states that each device is asked to enter, as "accel0 stop".
class StateLog {
 public:
  explicit StateLog(FaultyVm& machine) {
    for (auto* device : machine.devices)
      device->set_gate([log = log_, id = device->id()](DeviceState to) {
        std::lock_guard lock(log->mutex);
        log->asked.push_back(id + " " + std::string(vfio::to_string(to)));
      });
  }
  std::vector<std::string> taken() {
    std::lock_guard lock(log_->mutex);
    return std::exchange(log_->asked, {});
  }

 private:
  // The devices have it as well: they are asked once more when their machine is taken down.
  struct Log {
    std::mutex mutex;
    std::vector<std::string> asked;
  };
  std::shared_ptr<Log> log_ = std::make_shared<Log>();
};

// Mission A4: the states of either side, in their order; none is stopped before all are quiet (C6).
TEST(DeviceFaultStates, AMigrationTakesTheDevicesThroughTheStatesOfTheirSide) {
  for (const bool multifd : {false, true}) {
    auto from = running_machine(2);
    auto to = FaultyVm::make(2, true, from->runners);
    StateLog at_source(*from), at_destination(*to);
    FaultyMove move(*from, *to, multifd);
    move.wait();
    ASSERT_EQ(move.outgoing.status(), MigrationStatus::completed) << move.outgoing.statistics().error;
    EXPECT_THAT(at_source.taken(), ElementsAre("accel0 pre-copy", "accel1 pre-copy", "accel0 pre-copy-p2p",
                                               "accel1 pre-copy-p2p", "accel0 stop-copy", "accel1 stop-copy",
                                               "accel0 stop", "accel1 stop"));
    auto there = at_destination.taken();
    ASSERT_EQ(there.size(), 8u);
    std::sort(there.begin() + 2, there.begin() + 4);  // both judge what they were given at the same time
    EXPECT_THAT(there,
                ElementsAre("accel0 resuming", "accel1 resuming", "accel0 stop", "accel1 stop",
                            "accel0 running-p2p", "accel1 running-p2p", "accel0 running", "accel1 running"));
    from->expect_devices_in(DeviceState::stop);
    to->expect_whole();
  }
}

// Mission A5: a snapshot's stop leads into the saving state; it is left when nobody saves any more.
TEST(DeviceFaultStates, ASnapshotsStopIsASavingOneAndIsLeftAgain) {
  auto machine = running_machine(2);
  ASSERT_TRUE(machine->stop(RunState::save_vm));
  machine->expect_devices_in(DeviceState::stop_copy);
  ASSERT_TRUE(machine->stop(RunState::paused));
  machine->expect_devices_in(DeviceState::stop);
  ASSERT_TRUE(machine->start());
  machine->expect_whole();
}

struct Stage {
  const char* name;
  bool paused;                  ///< the machine stands when the migration begins
  MigrationStatus at;           ///< cancelled when the migration is here
  std::uint64_t before, after;  ///< changes of state until the cancel, and on the way back
};

// Mission A3: when a migration is cancelled its devices go back to where the machine is.
TEST(DeviceFaultStates, CancelledAtAnyStageTheDevicesGoBackToWhereTheMachineIs) {
  constexpr Stage kStages[] = {
      {"while it runs", false, MigrationStatus::active, 2, 2},
      {"when it has stopped", false, MigrationStatus::pre_switchover, 6, 4},
      {"paused before", true, MigrationStatus::pre_switchover, 0, 0},
  };
  std::unique_ptr<FaultyVm> machine;
  for (const auto& stage : kStages)
    for (std::uint64_t n = stage.before; n <= stage.before + stage.after; ++n)
      for (const auto fault : kEveryFault) {
        const bool clean = n == stage.before;
        if (clean && fault != Fault::refused) continue;
        SCOPED_TRACE(testing::Message() << stage.name << ", change of state " << n << ": "
                                        << (clean ? "clean" : to_string(fault)));
        if (!machine || machine->resets() > 0) machine = running_machine(2);
        if (stage.paused) {
          ASSERT_TRUE(machine->stop());
        }
        auto to = FaultyVm::make(2, true, machine->runners);
        if (!clean) machine->plan->arm(Call::set_state, n, fault);
        Source::Options options;
        options.capabilities.pause_before_switchover = true;
        if (stage.at == MigrationStatus::active) options.parameters.max_bandwidth = 1 * MiB;
        {
          FaultyMove move(*machine, *to, false, options);
          ASSERT_TRUE(FaultyVm::wait_for([&] { return move.outgoing.status() == stage.at; }));
          ASSERT_TRUE(move.outgoing.cancel());
          move.wait();
          EXPECT_EQ(move.outgoing.status(), MigrationStatus::cancelled);
          EXPECT_EQ(to->state(), RunState::inmigrate);
        }
        if (stage.paused) {
          EXPECT_EQ(machine->state(), RunState::paused);
          machine->expect_devices_in(DeviceState::stop);
          ASSERT_TRUE(machine->start());
        }
        EXPECT_EQ(clean, machine->plan->hit().empty());
        expect_recovers(*machine, machine->plan->hit(), fault);
        if (HasFatalFailure()) return;
      }
}

/// Holds one thread of the machine's or the migration's where it asks a device for a state.
class Gate {
 public:
  Gate(FaultyDevice& device, DeviceState at) : device_(device) {
    device.set_gate([this, at](DeviceState to) {
      if (to != at) return;
      std::unique_lock lock(mutex_);
      reached_ = true;
      changed_.notify_all();
      changed_.wait_for(lock, kHangs, [this] { return open_; });
    });
  }
  ~Gate() {
    open();
    device_.set_gate({});
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kHangs, [this] { return reached_; });
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  FaultyDevice& device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false, open_ = false;
};

// The migration's thread takes a device to pre-copy, or back, while a person stops the machine.
TEST(DeviceFaultStates, AStopAtTheMomentOfAChangeLeavesNoDeviceRunning) {
  for (const auto at : {DeviceState::pre_copy, DeviceState::running}) {
    SCOPED_TRACE(vfio::to_string(at));
    auto machine = running_machine(1);
    auto to = FaultyVm::make(1, true, machine->runners);
    Gate gate(*machine->devices[0], at);
    Source::Options options;
    options.parameters.max_bandwidth = 1 * MiB;
    FaultyMove move(*machine, *to, false, options);
    if (at == DeviceState::running) {
      ASSERT_TRUE(FaultyVm::wait_for([&] { return move.outgoing.status() == MigrationStatus::active; }));
      ASSERT_TRUE(move.outgoing.cancel());
    }
    ASSERT_TRUE(gate.wait());
    std::atomic<bool> stopped = false;
    std::jthread person([&] {
      EXPECT_TRUE(machine->stop());
      stopped = true;
    });
    // Either the stop waits for the change, or it goes first; time only makes the second likely.
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
    while (!stopped && std::chrono::steady_clock::now() < end)
      std::this_thread::yield();
    gate.open();
    person.join();
    (void)move.outgoing.cancel();
    move.wait();
    EXPECT_EQ(machine->state(), RunState::paused);
    machine->expect_devices_in(DeviceState::stop);
    ASSERT_TRUE(machine->start());
    machine->expect_whole();
  }
}

}  // namespace
}  // namespace handover::test
