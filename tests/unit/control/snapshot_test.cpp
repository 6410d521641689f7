// x-handover-snapshot over the control socket.

#include <gmock/gmock.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "unit/control/controlled_machine.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

/// A piece of the machine whose state is not ready until the test says so.
class Gate final : public StateItem {
 public:
  std::string section_name() const override { return "test-gate"; }
  const vmstate::Description* description() const override {
    static const auto description =
        vmstate::Describe<Gate>("test-gate", 1).field("value", &Gate::value_).done();
    return description.get();
  }
  Status save_state(StreamWriter& out) override {
    std::unique_lock lock(mutex_);
    reached_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    return StateItem::save_state(out);
  }
  void close() {
    std::lock_guard lock(mutex_);
    open_ = reached_ = false;
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait_until_reached() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::minutes(2), [&] { return reached_; }));
  }

 protected:
  void* mutable_object() const override { return const_cast<Gate*>(this); }

 private:
  std::uint64_t value_ = 7;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  bool reached_ = false;
};

class SnapshotTest : public testing::Test {
 protected:
  SnapshotTest() {
    machine_.machine.loop.call([&] { machine_.machine.machine.add_migratable(gate_); });
    machine_.machine.fill(7);
  }
  ~SnapshotTest() override { gate_.open(); }

  std::string file() const { return scratch_.file("snap"); }
  json to_file(json more = json::object()) const {
    more["filename"] = file();
    return more;
  }
  std::string content() const {
    std::ifstream in(file(), std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();
    return all.str();
  }
  bool nothing_left() const {
    return !std::filesystem::exists(file()) && !std::filesystem::exists(file() + ".partial");
  }

  ScratchDirectory scratch_;
  Gate gate_;
  ControlledMachine machine_{scratch_.file("qmp"), {}};
};

TEST_F(SnapshotTest, TheMachineIsSavedAndGoesOn) {
  machine_.must("cont");
  machine_.events();
  machine_.must("x-handover-snapshot", to_file());
  machine_.wait_for("completed");
  EXPECT_EQ(machine_.run_state(), "running");
  EXPECT_THAT(machine_.events(), ElementsAre("STOP", "RESUME"));
  const auto figures = machine_.ask("query-migrate");
  EXPECT_EQ(figures["x-handover-snapshot"], file());
  EXPECT_EQ(figures["ram"]["remaining"], 0);
  EXPECT_GT(figures["ram"]["transferred"], 128 * KiB);
  EXPECT_EQ(machine_.ask("x-handover-report")["x-handover-snapshot"], file());
  EXPECT_THAT(content(), Not(HasSubstr("mapped-ram")));
  EXPECT_THAT(machine_.refused("x-handover-resolve", {{"resume", true}}), HasSubstr("resolve"));

  machine_.must("x-handover-snapshot", to_file({{"stop", true}}));
  machine_.wait_for("completed");
  EXPECT_EQ(machine_.run_state(), "paused");
  machine_.must("cont");

  // A migration that follows is none.
  machine_.must("migrate", {{"uri", "file:" + scratch_.file("left")}});
  machine_.wait_for("completed");
  EXPECT_FALSE(machine_.ask("query-migrate").contains("x-handover-snapshot"));
  EXPECT_THAT(machine_.refused("x-handover-snapshot", to_file()), HasSubstr("given up"));
}

TEST_F(SnapshotTest, WhatIsNotSaidFollowsTheSettings) {
  machine_.must("cont");
  machine_.capability("mapped-ram", true);
  machine_.must("x-handover-snapshot", to_file());
  machine_.wait_for("completed");
  EXPECT_THAT(content().substr(0, 200), HasSubstr("mapped-ram"));
  machine_.must("x-handover-snapshot", to_file({{"mapped-ram", false}}));
  machine_.wait_for("completed");
  EXPECT_THAT(content(), Not(HasSubstr("mapped-ram")));
  machine_.capability("mapped-ram", false);
  machine_.must("x-handover-snapshot", to_file({{"mapped-ram", true}, {"direct-io", true}}));
  machine_.wait_for("completed");
  EXPECT_THAT(content().substr(0, 200), HasSubstr("mapped-ram"));
  // The machine's own settings stay.
  EXPECT_EQ(machine_.ask("query-migrate-parameters")["direct-io"], false);
}

TEST_F(SnapshotTest, WhileItIsSavedTheMachineBelongsToTheSnapshot) {
  machine_.must("cont");
  gate_.close();
  machine_.must("x-handover-snapshot", to_file());
  gate_.wait_until_reached();
  EXPECT_EQ(machine_.run_state(), "save-vm");
  EXPECT_EQ(machine_.migration_status(), "device");
  EXPECT_THAT(machine_.refused("cont"), HasSubstr("snapshot"));
  EXPECT_THAT(machine_.refused("stop"), HasSubstr("snapshot"));
  EXPECT_THAT(machine_.refused("migrate", {{"uri", "file:" + scratch_.file("x")}}), HasSubstr("snapshot"));
  EXPECT_THAT(machine_.refused("x-handover-snapshot", to_file()), HasSubstr("under way"));
  EXPECT_FALSE(std::filesystem::exists(file())) << "it has its name only when it is whole";
  machine_.must("migrate_cancel");
  gate_.open();
  machine_.wait_for("cancelled");
  EXPECT_EQ(machine_.run_state(), "running");
  EXPECT_TRUE(nothing_left());
  machine_.must("x-handover-snapshot", to_file());
  machine_.wait_for("completed");
}

TEST_F(SnapshotTest, WhatCannotBeDoneIsRefusedWithItsReason) {
  EXPECT_THAT(machine_.refused("x-handover-snapshot", to_file()), HasSubstr("prelaunch"));
  machine_.must("cont");
  EXPECT_THAT(machine_.refused("x-handover-snapshot"), HasSubstr("filename"));
  EXPECT_THAT(machine_.refused("x-handover-snapshot", {{"filename", ""}}), HasSubstr("empty"));
  EXPECT_THAT(machine_.refused("x-handover-snapshot", {{"filename", 7}}), HasSubstr("string"));
  EXPECT_THAT(machine_.refused("x-handover-snapshot", to_file({{"stop", "yes"}})), HasSubstr("stop"));
  EXPECT_THAT(machine_.refused("x-handover-snapshot", to_file({{"speed", 1}})), HasSubstr("speed"));
  {
    auto hold = machine_.blockers.add("gpu0 has no migration");
    EXPECT_THAT(machine_.refused("x-handover-snapshot", to_file()), HasSubstr("gpu0"));
  }
  ControlledMachine waiting(scratch_.file("other.qmp"), {.initial = RunState::inmigrate});
  EXPECT_THAT(waiting.refused("x-handover-snapshot", to_file()), HasSubstr("incoming"));
  EXPECT_TRUE(nothing_left());
}

}  // namespace
}  // namespace handover::control
