#include "handover/machine/run_state.h"

#include <gtest/gtest.h>

namespace handover {
namespace {

constexpr RunState kAll[] = {RunState::prelaunch,      RunState::inmigrate,      RunState::running,
                             RunState::paused,         RunState::finish_migrate, RunState::postmigrate,
                             RunState::save_vm,        RunState::guest_panicked, RunState::io_error,
                             RunState::internal_error, RunState::shutdown};

TEST(RunState, EveryNameLeadsBackToItsState) {
  for (auto state : kAll)
    EXPECT_EQ(run_state_from(to_string(state)), state);
  EXPECT_FALSE(run_state_from("nonsense"));
}

TEST(RunState, AMachineThatWasGivenUpNeverRunsInOneStep) {
  EXPECT_FALSE(run_state_arc_exists(RunState::postmigrate, RunState::running));
  EXPECT_TRUE(run_state_arc_exists(RunState::postmigrate, RunState::paused));
}

TEST(RunState, EveryStoppedStateOfAMigrationLeadsBack) {
  for (auto before : {RunState::running, RunState::paused, RunState::prelaunch}) {
    EXPECT_TRUE(run_state_arc_exists(before, RunState::finish_migrate));
    EXPECT_TRUE(run_state_arc_exists(RunState::finish_migrate, before));
  }
}

TEST(RunState, NothingLeavesShutdown) {
  for (auto state : kAll)
    EXPECT_FALSE(run_state_arc_exists(RunState::shutdown, state));
}

}  // namespace
}  // namespace handover
