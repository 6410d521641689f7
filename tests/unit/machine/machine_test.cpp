#include "handover/machine/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace handover {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// Writes down what it was told, and fails where it is asked to.
class Recorder final : public RunStateListener {
 public:
  Recorder(std::string name, int priority, std::vector<std::string>& log)
      : name_(std::move(name)), priority_(priority), log_(log) {}
  std::string name() const override { return name_; }
  int priority() const override { return priority_; }
  Status prepare(RunState, RunState to) override { return told("prepare", to); }
  Status change(RunState, RunState to) override { return told("change", to); }

  Status fit() const override { return unfit.empty() ? Status{} : fail(Errc::device, "{}", unfit); }

  std::string fail_at;
  std::string unfit;

 private:
  Status told(std::string_view phase, RunState to) {
    log_.push_back(fmt::format("{} {} {}", name_, phase, to_string(to)));
    if (log_.back() == fail_at) return fail(Errc::device, "broken");
    return {};
  }
  std::string name_;
  int priority_;
  std::vector<std::string>& log_;
};

class CountingItem final : public StateItem {
 public:
  std::string section_name() const override { return "counting-vcpu"; }
  const vmstate::Description* description() const override {
    static const auto description =
        vmstate::Describe<CountingItem>("counting-vcpu", 1).field("ticks", &CountingItem::ticks).done();
    return description.get();
  }
  std::uint64_t ticks = 0;

 protected:
  void* mutable_object() const override { return const_cast<CountingItem*>(this); }
};

class RecordingVcpu final : public Vcpu {
 public:
  explicit RecordingVcpu(std::vector<std::string>& log) : log_(log) {}
  std::string name() const override { return "vcpu0"; }
  void resume() override { log_.push_back("vcpu resume"); }
  void pause() override { log_.push_back("vcpu pause"); }
  Migratable& state() override { return item_; }
  void on_panic(std::function<void(std::string)> handler) override { panic = std::move(handler); }
  std::function<void(std::string)> panic;

 private:
  std::vector<std::string>& log_;
  CountingItem item_;
};

class MachineTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_.start_thread();
    memory_ = std::move(*GuestMemory::create(kPageSize));
    machine_ = std::make_unique<Machine>(loop_, *memory_);
    machine_->add_vcpu(vcpu_);
    machine_->add_listener(second_);
    machine_->add_listener(first_);
  }
  void TearDown() override { machine_.reset(); }
  Status start() {
    return loop_.call([&] { return machine_->start(); });
  }
  Status stop(RunState to) {
    return loop_.call([&] { return machine_->stop(to); });
  }

  std::vector<std::string> log_;
  EventLoop loop_{"machine"};
  std::unique_ptr<GuestMemory> memory_;
  RecordingVcpu vcpu_{log_};
  Recorder first_{"a", 0, log_};
  Recorder second_{"b", 10, log_};
  std::unique_ptr<Machine> machine_;
};

// Mission C6: every listener prepares before any changes.
TEST_F(MachineTest, AllPrepareBeforeAnyChangesAndVcpusRunLast) {
  ASSERT_TRUE(start());
  EXPECT_THAT(log_, ElementsAre("a prepare running", "b prepare running", "a change running",
                                "b change running", "vcpu resume"));
  EXPECT_TRUE(machine_->running());
}

TEST_F(MachineTest, VcpusStopFirstAndListenersInReverseOrder) {
  ASSERT_TRUE(start());
  log_.clear();
  ASSERT_TRUE(stop(RunState::paused));
  EXPECT_THAT(log_, ElementsAre("vcpu pause", "b prepare paused", "a prepare paused", "b change paused",
                                "a change paused"));
}

TEST_F(MachineTest, AStartThatAListenerRefusesIsUndoneAndNamesIt) {
  second_.fail_at = "b change running";
  auto started = start();
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().to_string(), HasSubstr("b on the way from prelaunch to running: broken"));
  EXPECT_EQ(machine_->state(), RunState::internal_error);
  EXPECT_THAT(log_, testing::Contains("a change internal-error"));
  EXPECT_THAT(log_, testing::Not(testing::Contains("vcpu resume")));
  EXPECT_THAT(machine_->trouble(), HasSubstr("broken"));
}

TEST_F(MachineTest, AStopTellsEverybodyEvenIfOneFails) {
  ASSERT_TRUE(start());
  log_.clear();
  second_.fail_at = "b prepare finish-migrate";
  auto stopped = stop(RunState::finish_migrate);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(machine_->state(), RunState::finish_migrate);
  EXPECT_THAT(log_, testing::Contains("a change finish-migrate"));
  EXPECT_THAT(log_, testing::Contains("b change finish-migrate"));
}

TEST_F(MachineTest, AnIllegalTransitionIsRefusedAndNothingIsTold) {
  ASSERT_TRUE(start());
  log_.clear();
  EXPECT_FALSE(stop(RunState::inmigrate));
  EXPECT_TRUE(log_.empty());
  EXPECT_TRUE(machine_->running());
}

TEST_F(MachineTest, APanicStopsTheMachineAndSaysWhy) {
  ASSERT_TRUE(start());
  vcpu_.panic("page 7 is wrong");
  loop_.call([] {});  // the panic is handled on the loop, before this
  EXPECT_EQ(machine_->state(), RunState::guest_panicked);
  EXPECT_EQ(machine_->trouble(), "vcpu0: page 7 is wrong");
}

TEST_F(MachineTest, APanicThatComesLateFindsNoMachine) {
  ASSERT_TRUE(start());
  log_.clear();
  loop_.call([&] {
    vcpu_.panic("page 7 is wrong");
    machine_.reset();
  });
  loop_.call([] {});
  EXPECT_THAT(log_, ElementsAre("vcpu pause")) << "by the machine's end";
}

TEST_F(MachineTest, AListenerThatIsNotFitStopsTheMachineWithItsReason) {
  for (const auto to : {RunState::paused, RunState::finish_migrate}) {
    ASSERT_TRUE(start());
    second_.unfit = "b is dead";
    const auto stopped = stop(to);
    ASSERT_FALSE(stopped);
    EXPECT_THAT(stopped.error().to_string(), HasSubstr("b is dead"));
    EXPECT_EQ(machine_->state(), RunState::internal_error);
    EXPECT_THAT(machine_->trouble(), HasSubstr("b is dead"));
    second_.unfit.clear();
  }
  ASSERT_TRUE(start()) << "what is fit again may run again";
  EXPECT_EQ(machine_->trouble(), "");
  EXPECT_TRUE(loop_.call([&] { return machine_->check_listeners(); }));
  second_.unfit = "b is dead";
  log_.clear();
  EXPECT_FALSE(loop_.call([&] { return machine_->check_listeners(); }));
  EXPECT_EQ(machine_->state(), RunState::internal_error);
  EXPECT_THAT(log_, testing::Contains("vcpu pause"));
  EXPECT_THAT(log_, testing::Contains("a change internal-error"));
}

TEST_F(MachineTest, AMachineThatWasGivenUpIsStoppedByNobodyElse) {
  ASSERT_TRUE(start());
  ASSERT_TRUE(stop(RunState::finish_migrate));
  ASSERT_TRUE(stop(RunState::postmigrate));
  second_.unfit = "b is dead";
  EXPECT_TRUE(loop_.call([&] { return machine_->check_listeners(); }));
  EXPECT_EQ(machine_->state(), RunState::postmigrate);
}

// Its source has been told, and may have taken the guest back.
TEST_F(MachineTest, AMachineThatArrivedAndDidNotStartIsNotStartedAgain) {
  ASSERT_TRUE(stop(RunState::inmigrate));
  second_.fail_at = "b change running";
  ASSERT_FALSE(start());
  second_.fail_at.clear();
  const auto again = start();
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().to_string(), HasSubstr("its source may run it again"));
  EXPECT_EQ(machine_->state(), RunState::internal_error);
}

TEST_F(MachineTest, AStartThatFailedCanBeTriedAgain) {
  ASSERT_TRUE(start());
  ASSERT_TRUE(stop(RunState::paused));
  second_.fail_at = "b change running";
  ASSERT_FALSE(start());
  EXPECT_EQ(machine_->state(), RunState::internal_error);
  second_.fail_at.clear();
  ASSERT_TRUE(start());
  EXPECT_EQ(machine_->trouble(), "");
}

// Mission A6: what was never added can be removed, and what was removed is not told.
TEST_F(MachineTest, ARemovedListenerIsNotTold) {
  Recorder stranger{"c", 0, log_};
  machine_->remove_listener(stranger);
  machine_->remove_listener(second_);
  ASSERT_TRUE(start());
  EXPECT_THAT(log_, ElementsAre("a prepare running", "a change running", "vcpu resume"));
}

TEST_F(MachineTest, ObserversSeeEachChange) {
  std::vector<std::string> seen;
  machine_->add_observer([&](RunState from, RunState to) {
    seen.push_back(fmt::format("{}>{}", to_string(from), to_string(to)));
  });
  ASSERT_TRUE(start());
  ASSERT_TRUE(stop(RunState::paused));
  EXPECT_THAT(seen, ElementsAre("prelaunch>running", "running>paused"));
}

TEST_F(MachineTest, AtASafePointNoVcpuRunsAndTheRunStateStays) {
  auto at_safe_point = [&](Status result) {
    return loop_.call([&] {
      return machine_->at_safe_point([&] {
        log_.push_back("work");
        return result;
      });
    });
  };
  EXPECT_TRUE(at_safe_point({}));
  EXPECT_THAT(log_, ElementsAre("work")) << "nothing runs that would have to pause";
  ASSERT_TRUE(start());
  log_.clear();
  EXPECT_TRUE(at_safe_point({}));
  EXPECT_THAT(log_, ElementsAre("vcpu pause", "work", "vcpu resume"));
  log_.clear();
  EXPECT_FALSE(at_safe_point(fail(Errc::device, "broken")));
  EXPECT_THAT(log_, ElementsAre("vcpu pause", "work", "vcpu resume")) << "also after a failure";
  EXPECT_EQ(machine_->state(), RunState::running);
}

}  // namespace
}  // namespace handover
