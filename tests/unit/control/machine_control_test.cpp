#include "control/machine_control.h"

#include <gmock/gmock.h>

#include "unit/control/controlled_machine.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class MachineControlTest : public testing::Test {
 protected:
  ControlledMachine& source() {
    if (!source_) {
      source_ =
          std::make_unique<ControlledMachine>(scratch_.file("source.qmp"), ControlledMachine::Options{});
      source_->machine.fill(7);
      source_->must("cont");
    }
    return *source_;
  }
  ControlledMachine& destination(bool paused = false) {
    if (!destination_)
      destination_ = std::make_unique<ControlledMachine>(
          scratch_.file("destination.qmp"),
          ControlledMachine::Options{.initial = RunState::inmigrate, .incoming_paused = paused});
    return *destination_;
  }
  json stream_path() { return {{"uri", "unix:" + scratch_.file("stream")}}; }
  void leave(const json& to) {
    source().must("migrate-set-parameters", {{"max-bandwidth", 0}});
    source().must("migrate", to);
  }

  ScratchDirectory scratch_;
  std::unique_ptr<ControlledMachine> source_;
  std::unique_ptr<ControlledMachine> destination_;
};

TEST_F(MachineControlTest, StopAndContChangeTheRunStateAndAreTold) {
  auto& machine = source();
  EXPECT_EQ(machine.ask("query-status"), (json{{"running", true}, {"status", "running"}}));
  machine.must("stop");
  machine.must("stop");
  EXPECT_EQ(machine.ask("query-status"), (json{{"running", false}, {"status", "paused"}}));
  machine.must("cont");
  machine.must("cont");
  EXPECT_THAT(machine.events(), ElementsAre("RESUME", "STOP", "RESUME"));
  EXPECT_THAT(machine.refused("stop", {{"now", true}}), HasSubstr("now"));
}

TEST_F(MachineControlTest, AMachineMigratesAndBothSidesSayHow) {
  source().capability("events", true);
  destination().capability("events", true);
  source().events();
  destination().must("migrate-incoming", stream_path());
  EXPECT_EQ(destination().ask("query-migrate")["socket-address"],
            json::array({{{"type", "unix"}, {"path", scratch_.file("stream")}}}));
  EXPECT_THAT(destination().refused("migrate-incoming", stream_path()), HasSubstr("already"));
  leave(stream_path());
  source().wait_for("completed");
  destination().wait_for("completed");

  const auto figures = source().ask("query-migrate");
  EXPECT_GT(figures["ram"]["transferred"], 128 * KiB) << figures;
  EXPECT_EQ(figures["ram"]["total"], 256 * KiB);
  EXPECT_TRUE(figures.contains("downtime"));
  EXPECT_EQ(destination().run_state(), "running");
  destination().must("stop");
  EXPECT_EQ(destination().machine.device.value, 42u);

  const auto report = source().ask("x-handover-report");
  EXPECT_EQ(report["status"], "completed");
  EXPECT_GE(report["items"].size(), 3u) << report;
  EXPECT_FALSE(report["rounds"].empty());

  auto told = source().events();
  std::erase(told, "MIGRATION_PASS");
  EXPECT_THAT(told, ElementsAre("MIGRATION setup", "MIGRATION active", "STOP", "MIGRATION device",
                                "MIGRATION completed"));
  told = destination().events();
  EXPECT_THAT(told, testing::IsSupersetOf(
                        {"MIGRATION setup", "MIGRATION active", "RESUME", "STOP", "MIGRATION completed"}));

  // One runner: what has been given up neither runs nor leaves again.
  EXPECT_EQ(source().run_state(), "postmigrate");
  EXPECT_THAT(source().refused("cont"), HasSubstr("given up"));
  source().must("stop");
  EXPECT_EQ(source().run_state(), "postmigrate");
  EXPECT_THAT(source().refused("cont"), HasSubstr("given up"));
  EXPECT_THAT(source().refused("migrate", stream_path()), HasSubstr("given up"));
  EXPECT_THAT(source().refused("x-handover-resolve", {{"resume", true}}), HasSubstr("resolve"));
  EXPECT_THAT(destination().refused("migrate-incoming", stream_path()), HasSubstr("does not wait"));
}

TEST_F(MachineControlTest, AnIncomingMachineCanStayPaused) {
  destination(true).must("migrate-incoming", stream_path());
  leave(stream_path());
  destination().wait_for("completed");
  EXPECT_EQ(destination().run_state(), "paused");
  destination().must("cont");
  EXPECT_EQ(destination().run_state(), "running");
}

TEST_F(MachineControlTest, AMachineIsSavedToAFileAndComesBack) {
  const json file{
      {"channels", json::array({{{"channel-type", "main"},
                                 {"addr", {{"transport", "file"}, {"filename", scratch_.file("saved")}}}}})}};
  leave(file);
  source().wait_for("completed");
  destination().must("migrate-incoming", file);
  destination().wait_for("completed");
  destination().must("stop");
  EXPECT_EQ(destination().machine.device.value, 42u);
}

TEST_F(MachineControlTest, WhatCannotStartIsRefusedWithTheReason) {
  EXPECT_THAT(destination().refused("migrate", stream_path()), HasSubstr("incoming"));
  EXPECT_THAT(destination().refused("cont"), HasSubstr("incoming"));
  EXPECT_THAT(destination().refused("stop"), HasSubstr("incoming"));
  EXPECT_THAT(source().refused("migrate-incoming", stream_path()), HasSubstr("does not wait"));
  EXPECT_THAT(source().refused("migrate"), HasSubstr("uri"));
  EXPECT_THAT(source().refused("migrate", {{"uri", "smoke:1"}}), HasSubstr("tcp:"));
  EXPECT_THAT(source().refused("migrate", {{"uri", "unix:/x"}, {"resume", true}}), HasSubstr("postcopy"));
  EXPECT_THAT(source().refused("migrate", {{"uri", "unix:/x"}, {"detach", true}}), HasSubstr("detach"));
  EXPECT_THAT(source().refused("migrate-continue", {{"state", "pre-switchover"}}), HasSubstr("waits"));
  EXPECT_THAT(source().refused("migrate-continue", {{"state", "device"}}), HasSubstr("pre-switchover"));
  EXPECT_THAT(source().refused("migrate-continue"), HasSubstr("state"));
  EXPECT_THAT(source().refused("x-handover-resolve", {{"resume", true}}), HasSubstr("nothing"));
  EXPECT_THAT(source().refused("x-handover-resolve"), HasSubstr("resume"));
  EXPECT_THAT(source().refused("x-handover-report"), HasSubstr("no migration"));
  EXPECT_THAT(destination().refused("migrate-incoming", {{"uri", "unix:" + scratch_.file("no/folder")}}),
              HasSubstr("no/folder"));
  EXPECT_EQ(source().ask("query-migrate"), json::object());
  source().must("migrate_cancel");
}

TEST_F(MachineControlTest, BlockersRefuseAMigrationWithEveryReason) {
  auto first = source().blockers.add("gpu0 has no migration");
  auto second = source().blockers.add("nvme0 has no P2P states");
  EXPECT_THAT(source().refused("migrate", stream_path()),
              AllOf(HasSubstr("gpu0 has no migration"), HasSubstr("nvme0 has no P2P states")));
  // Visible beforehand, not only by trying (mission C7).
  EXPECT_EQ(source().ask("query-migrate"),
            (json{{"blocked-reasons", {"gpu0 has no migration", "nvme0 has no P2P states"}}}));
  EXPECT_EQ(source().run_state(), "running");
}

TEST_F(MachineControlTest, AFailedMigrationLeavesTheMachineRunningAndCanBeTriedAgain) {
  leave({{"uri", "unix:" + scratch_.file("nobody")}});
  source().wait_for("failed");
  EXPECT_THAT(source().ask("query-migrate").value("error-desc", ""), HasSubstr("nobody"));
  EXPECT_EQ(source().run_state(), "running");
  destination().must("migrate-incoming", stream_path());
  leave(stream_path());
  source().wait_for("completed");
}

TEST_F(MachineControlTest, WhileOneIsUnderWayNoOtherStartsAndSettingsHold) {
  source().capability("pause-before-switchover", true);
  destination().must("migrate-incoming", stream_path());
  leave(stream_path());
  source().wait_for("pre-switchover");
  EXPECT_THAT(source().refused("migrate", stream_path()), HasSubstr("under way"));
  EXPECT_THAT(source().refused("cont"), HasSubstr("finishing"));
  EXPECT_THAT(source().refused("stop"), HasSubstr("finishing"));
  EXPECT_THAT(source().refused("migrate-set-capabilities", {{"capabilities", json::array()}}),
              HasSubstr("under way"));
  source().must("migrate-set-parameters", {{"downtime-limit", 1000}});
  EXPECT_EQ(source().ask("query-migrate-parameters")["downtime-limit"], 1000);
  source().must("migrate-continue", {{"state", "pre-switchover"}});
  source().wait_for("completed");
}

TEST_F(MachineControlTest, ACancelledMigrationLeavesTheMachineRunning) {
  source().capability("pause-before-switchover", true);
  destination().must("migrate-incoming", stream_path());
  leave(stream_path());
  source().wait_for("pre-switchover");
  source().must("migrate_cancel");
  source().wait_for("cancelled");
  EXPECT_EQ(source().run_state(), "running");
  destination().wait_for("failed");
  EXPECT_THAT(destination().refused("migrate-incoming", stream_path()), HasSubstr("ended"));
  EXPECT_EQ(destination().run_state(), "inmigrate");
}

TEST_F(MachineControlTest, AnIncomingMigrationThatNobodyComesForCanBeCancelled) {
  destination().must("migrate-incoming", stream_path());
  destination().must("migrate_cancel");
  destination().wait_for("cancelled");
}

TEST_F(MachineControlTest, ExitOnErrorEndsTheProcessWithOne) {
  destination().must("migrate-incoming",
                     {{"uri", "unix:" + scratch_.file("stream")}, {"exit-on-error", true}});
  {
    RawClient liar(scratch_.file("stream"));
    ASSERT_TRUE(liar.send("this is no stream"));
    liar.end();
    EXPECT_EQ(destination().quit_code().get(), 1);
  }
}

TEST_F(MachineControlTest, SettingsAreShownAndCheckedAsAWhole) {
  auto& machine = source();
  EXPECT_EQ(machine.ask("query-migrate-parameters")["max-bandwidth"], 128ull << 20);
  EXPECT_THAT(machine.refused("migrate-set-parameters", {{"downtime-limit", 5}, {"x", 1}}),
              HasSubstr("known"));
  EXPECT_EQ(machine.ask("query-migrate-parameters")["downtime-limit"], 300);
  EXPECT_EQ(machine.ask("query-migrate-capabilities").size(), 6u);
  EXPECT_THAT(machine.refused("migrate-set-capabilities"), HasSubstr("missing"));
  EXPECT_THAT(machine.refused("query-migrate", {{"x", 1}}), HasSubstr("x"));
}

TEST_F(MachineControlTest, WhatTheMakerOffersIsAnswered) {
  EXPECT_EQ(source().ask("x-handover-guest"), (json{{"ticks", 7}}));
  EXPECT_EQ(source().ask("x-handover-verify"), (json{{"mismatches", 0}}));
  source().events();
  source().control().device_lost("gpu0", "its server died");
  auto event = source().client().next_event({}, std::chrono::steady_clock::now() + std::chrono::minutes(1));
  ASSERT_TRUE(event && *event);
  EXPECT_EQ((*event)->name, "X_HANDOVER_DEVICE_LOST");
  EXPECT_EQ((*event)->data, (json{{"device", "gpu0"}, {"reason", "its server died"}}));
}

TEST_F(MachineControlTest, QuitIsAnsweredAndEndsAMigrationUnderWay) {
  source().capability("pause-before-switchover", true);
  destination().must("migrate-incoming", stream_path());
  leave(stream_path());
  source().wait_for("pre-switchover");
  source().must("quit");
  EXPECT_EQ(source().quit_code().get(), 0);
  EXPECT_EQ(source().machine.machine.state(), RunState::running);
  EXPECT_THAT(source().refused("query-migrate"), HasSubstr("about to end"));
  destination().wait_for("failed");
}

}  // namespace
}  // namespace handover::control
