// What a person sees and may do when the mark was sent and no answer came.

#include <gmock/gmock.h>
#include "unit/control/controlled_machine.h"
#include "unit/control/cutting_relay.h"

namespace handover::control {
namespace {

using testing::HasSubstr;

class InDoubtTest : public testing::Test {
 protected:
  void break_at(CuttingRelay::Cut cut) {
    source_.must("cont");
    destination_.must("migrate-incoming", {{"uri", "unix:" + scratch_.file("far")}});
    CuttingRelay relay(scratch_.file("near"), scratch_.file("far"), cut);
    source_.must("migrate", {{"uri", "unix:" + scratch_.file("near")}});
    source_.wait_for("in-doubt");
  }

  ScratchDirectory scratch_;
  ControlledMachine source_{scratch_.file("source.qmp"), {}};
  ControlledMachine destination_{scratch_.file("destination.qmp"), {.initial = RunState::inmigrate}};
};

TEST_F(InDoubtTest, NothingButAPersonsWordMovesTheMachine) {
  break_at(CuttingRelay::Cut::answer_is_lost);
  EXPECT_THAT(source_.refused("cont"), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("stop"), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("quit"), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("migrate", {{"uri", "unix:/x"}}), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("migrate_cancel"), HasSubstr("resolve"));
  EXPECT_FALSE(source_.ask("query-migrate").value("error-desc", "").empty());
  EXPECT_NE(source_.run_state(), "running");

  destination_.wait_for("completed");
  EXPECT_EQ(destination_.run_state(), "running");
  source_.must("x-handover-resolve", {{"resume", false}});
  EXPECT_EQ(source_.run_state(), "postmigrate");
  EXPECT_EQ(source_.migration_status(), "completed");
  EXPECT_THAT(source_.refused("cont"), HasSubstr("given up"));
  source_.must("quit");
}

TEST_F(InDoubtTest, AMachineThatNeverArrivedIsResumed) {
  break_at(CuttingRelay::Cut::mark_is_lost);
  destination_.wait_for("failed");
  EXPECT_EQ(destination_.run_state(), "inmigrate");
  source_.must("x-handover-resolve", {{"resume", true}});
  EXPECT_EQ(source_.run_state(), "running");
  EXPECT_THAT(source_.refused("x-handover-resolve", {{"resume", true}}), HasSubstr("nothing to resolve"));
}

}  // namespace
}  // namespace handover::control
