// The commands migrate, resolve and query, run as processes against machines in this one.

#include <gmock/gmock.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <sstream>

#include "cli/child_process.h"
#include "unit/control/controlled_machine.h"
#include "unit/control/cutting_relay.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class MigrateCommandTest : public testing::Test {
 protected:
  MigrateCommandTest() {
    source_.machine.fill(3);
    source_.must("cont");
  }
  static Deadline patience() { return std::chrono::steady_clock::now() + std::chrono::minutes(2); }
  std::string text(const std::string& name) {
    std::ifstream file(scratch_.file(name));
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
  }
  cli::ChildProcess start(std::vector<std::string> arguments) {
    auto child =
        cli::ChildProcess::start(arguments, {.name = "handover", .stderr_path = scratch_.file("stderr")});
    if (!child) throw std::runtime_error(child.error().to_string());
    return std::move(*child);
  }
  Outcome finish(cli::ChildProcess child) {
    Outcome outcome;
    while (auto line = child.read_line({}, patience()))
      outcome.out += *line + "\n";
    auto code = child.wait({}, patience());
    outcome.code = code ? *code : -1;
    outcome.err = text("stderr");
    return outcome;
  }
  std::vector<std::string> command(const char* name, std::vector<std::string> more) {
    std::vector<std::string> all{HANDOVER_BINARY, name, "--qmp", scratch_.file("source.qmp")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Outcome run(const char* name, std::vector<std::string> more) {
    return finish(start(command(name, std::move(more))));
  }
  /// Reads lines until one has `part`.
  void read_until(cli::ChildProcess& child, const std::string& part) {
    for (;;) {
      auto line = child.read_line({}, patience());
      ASSERT_TRUE(line) << "waiting for " << part << ": " << line.error().to_string();
      if (line->find(part) != std::string::npos) return;
    }
  }
  void listen(const char* name = "stream") { destination_.must("migrate-incoming", {{"uri", uri(name)}}); }
  std::string uri(const char* name = "stream") { return "unix:" + scratch_.file(name); }

  ScratchDirectory scratch_;
  ControlledMachine source_{scratch_.file("source.qmp"), {}};
  ControlledMachine destination_{scratch_.file("destination.qmp"), {.initial = RunState::inmigrate}};
};

void expect_one_line(const Outcome& outcome) {
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
}

TEST_F(MigrateCommandTest, MovesTheMachineAndSumsUp) {
  listen();
  const auto outcome =
      run("migrate", {uri(), "--max-bandwidth", "200M", "--downtime-limit", "500",
                      "--avail-switchover-bandwidth", "1G", "--json", scratch_.file("report")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("migrated to " + uri()), HasSubstr("downtime"), Not(HasSubstr("\r"))));
  EXPECT_EQ(outcome.err, "");
  const auto settings = source_.ask("query-migrate-parameters");
  EXPECT_EQ(settings["max-bandwidth"], 200 << 20);
  EXPECT_EQ(settings["downtime-limit"], 500);
  EXPECT_EQ(settings["avail-switchover-bandwidth"], 1 << 30);
  EXPECT_EQ(json::parse(text("report"))["status"], "completed");
  destination_.wait_for("completed");
}

TEST_F(MigrateCommandTest, FailureSaysWhyAndWhereTheGuestIs) {
  const auto outcome = run("migrate", {uri("nobody")});
  expect_one_line(outcome);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("nobody"), HasSubstr("still runs on the source")));
  EXPECT_EQ(source_.run_state(), "running");
}

TEST_F(MigrateCommandTest, ABlockedMigrationSaysWhy) {
  auto hold = source_.blockers.add("gpu0 has no migration");
  const auto outcome = run("migrate", {uri()});
  expect_one_line(outcome);
  EXPECT_THAT(outcome.err, HasSubstr("gpu0 has no migration"));
}

TEST_F(MigrateCommandTest, InterruptCancelsAndTheGuestRunsOn) {
  listen();
  auto child = start(command("migrate", {uri(), "--pause-before-switchover"}));
  read_until(child, "stands still");
  child.signal(SIGINT);
  const auto outcome = finish(std::move(child));
  expect_one_line(outcome);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("cancelled"), HasSubstr("still runs on the source")));
  EXPECT_EQ(source_.run_state(), "running");
}

TEST_F(MigrateCommandTest, EnterHandsThePausedGuestOver) {
  listen();
  const auto outcome =
      finish(start({"/bin/sh", "-c", "echo | exec \"$@\"", "sh", HANDOVER_BINARY, "migrate", "--qmp",
                    scratch_.file("source.qmp"), uri(), "--pause-before-switchover"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("stands still"), HasSubstr("migrated")));
}

TEST_F(MigrateCommandTest, DetachOnlyStartsIt) {
  listen();
  const auto outcome = run("migrate", {uri(), "--detach"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("handover query"));
  source_.wait_for("completed");
}

TEST_F(MigrateCommandTest, DoubtIsExplainedAndResolved) {
  listen("far");
  {
    CuttingRelay relay(scratch_.file("near"), scratch_.file("far"), CuttingRelay::Cut::answer_is_lost);
    const auto outcome = run("migrate", {uri("near")});
    expect_one_line(outcome);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("in doubt"), HasSubstr("--abandon"), HasSubstr("--resume")));
  }
  const auto resolved = run("resolve", {"--abandon"});
  EXPECT_EQ(resolved.code, 0) << resolved.err;
  EXPECT_EQ(source_.run_state(), "postmigrate");
  const auto again = run("resolve", {"--resume"});
  expect_one_line(again);
  EXPECT_NE(source_.run_state(), "running");
}

TEST_F(MigrateCommandTest, QueryPrintsJson) {
  auto outcome = run("query", {});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(json::parse(outcome.out)["status"], "running");
  EXPECT_EQ(json::parse(run("query", {"migrate"}).out), json::object());
  outcome = run("query", {"report"});
  expect_one_line(outcome);
  EXPECT_EQ(run("query", {"weather"}).code, 2);
}

TEST_F(MigrateCommandTest, UsageErrorsEndWithTwo) {
  EXPECT_EQ(run("migrate", {}).code, 2);
  EXPECT_EQ(run("migrate", {"carrier-pigeon:7"}).code, 2);
  EXPECT_EQ(run("migrate", {uri(), "--max-bandwidth", "fast"}).code, 2);
  EXPECT_EQ(run("migrate", {uri(), "--downtime-limit", "-1"}).code, 2);
  EXPECT_EQ(run("resolve", {}).code, 2);
  EXPECT_EQ(run("resolve", {"--resume", "--abandon"}).code, 2);
}

TEST_F(MigrateCommandTest, OnATerminalOneLineIsRedrawn) {
  listen();
  source_.must("migrate-set-parameters", {{"max-bandwidth", 1'000'000}});
  // script(1) gives the command a terminal.
  std::string line;
  for (const auto& word : command("migrate", {uri()}))
    line += "'" + word + "' ";
  auto child = cli::ChildProcess::start({"script", "-qec", line, "/dev/null"},
                                        {.name = "script", .stderr_path = scratch_.file("stderr")});
  if (!child) GTEST_SKIP() << child.error().to_string();
  const auto outcome = finish(std::move(*child));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("\r\x1b[K"), HasSubstr("migrated to")));
}

}  // namespace
}  // namespace handover::control
