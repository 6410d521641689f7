// Machines with devices under load that are saved to files by the commands that people type, go on, and come
// back in fresh processes.

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "integration/two_machines.h"

namespace handover::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

cli::ChildProcess start(TestFolder& folder, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), HANDOVER_BINARY);
  auto child =
      cli::ChildProcess::start(arguments, {.name = arguments[1], .stderr_path = folder.file("stderr")});
  if (!child) throw std::runtime_error(child.error().to_string());
  return std::move(*child);
}

Outcome finish(TestFolder& folder, cli::ChildProcess child) {
  Outcome outcome;
  while (auto line = child.read_line({}, patience()))
    outcome.out += *line + "\n";
  auto code = child.wait({}, patience());
  outcome.code = code ? *code : -1;
  outcome.err = folder.text("stderr");
  return outcome;
}

Outcome run(TestFolder& folder, std::vector<std::string> arguments) {
  return finish(folder, start(folder, std::move(arguments)));
}

struct Way {
  std::string name;
  std::vector<std::string> flags;
  bool multifd = false;
  bool mapped() const { return !flags.empty(); }
};
const Way kWays[] = {{"plain", {}},
                     {"mapped", {"--mapped-ram"}},
                     {"direct", {"--mapped-ram", "--direct-io"}},
                     {"several", {"--mapped-ram", "--direct-io"}, true}};

/// Sound, at work, and all that it ever wrote is there.
void expect_whole(Side& side, const std::string& when) {
  const auto before = side.guest().value("jobs-completed", std::uint64_t{0});
  wait_until("device jobs, " + when,
             [&] { return side.guest().value("jobs-completed", std::uint64_t{0}) > before + 20; });
  auto verified = side.ask("x-handover-verify");
  ASSERT_TRUE(verified) << when << ": " << verified.error().to_string();
  EXPECT_EQ(verified->at("devices"), 1) << when;
  EXPECT_GT(verified->at("pages"), 500) << when;
  EXPECT_EQ(side.guest().at("mismatches"), 0) << when;
  EXPECT_EQ(side.guest().at("interrupts-lost"), 0) << when;
}

SideOptions from_file(const std::string& file, std::vector<std::string> more = {}) {
  SideOptions options;
  options.more.insert(options.more.end(), {"--restore", file});
  options.more.insert(options.more.end(), more.begin(), more.end());
  return options;
}

void expect_layout(TestFolder& folder, const std::string& file, const Way& way) {
  const auto seen = run(folder, {"inspect", "--json", file});
  ASSERT_EQ(seen.code, 0) << seen.err;
  const auto facts = json::parse(seen.out);
  EXPECT_EQ(facts.at("run_state"), "running") << way.name;
  EXPECT_EQ(facts.at("ram_total_bytes"), 64u << 20) << way.name;
  if (way.mapped()) {
    EXPECT_EQ(facts.at("normal_pages"), 0) << way.name;
  }
  const auto& block = facts.at("ram_blocks").at(0);
  ASSERT_EQ(block.contains("pages_offset"), way.mapped()) << way.name << block;
  if (!way.mapped()) return;
  // QEMU's rules: the bitmap directly behind its header, the pages at the next MiB.
  EXPECT_EQ(block.at("pages_offset"), 1u << 20) << block;
  EXPECT_LT(block.at("bitmap_offset"), 1u << 20) << block;
  EXPECT_EQ(block.at("header_version"), 1) << block;
  EXPECT_GT(block.at("pages_in_file"), 500) << block;
}

TEST(Snapshot, AMachineUnderLoadIsSavedGoesOnAndComesBackEveryWay) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  source.expect_progress("before");
  for (const auto& way : kWays) {
    source.set_capability("multifd", way.multifd);
    const auto file = folder.file(way.name);
    std::vector<std::string> command{"snapshot", "--qmp",  folder.file("source.qmp"),
                                     file,       "--json", folder.file("report")};
    command.insert(command.end(), way.flags.begin(), way.flags.end());
    const auto saved = run(folder, command);
    ASSERT_EQ(saved.code, 0) << way.name << ": " << saved.err;
    EXPECT_THAT(saved.out, AllOf(HasSubstr("saved to " + file), HasSubstr("the guest runs on")));
    EXPECT_EQ(json::parse(folder.text("report")).at("status"), "completed");
    EXPECT_EQ(source.run_state(), "running");
    expect_whole(source, "after the snapshot, " + way.name);
    expect_layout(folder, file, way);

    Side restored(folder, "restored-" + way.name, from_file(file), false);
    EXPECT_EQ(restored.run_state(), "running");
    expect_whole(restored, "restored, " + way.name);
  }
  // And it can still leave.
  Side destination(folder, "destination", {}, true);
  source.set_capability("multifd", false);
  ASSERT_TRUE(source.ask("migrate-set-parameters", {{"max-bandwidth", 0}, {"downtime-limit", 60000}}));
  ASSERT_TRUE(source.ask("migrate", {{"uri", destination.listening_on()}}));
  wait_until("the migration", [&] { return is_final_status(source.migration_status()); });
  ASSERT_EQ(source.migration_status(), "completed") << folder.text("source.log");
  expect_whole(destination, "after the migration");
}

TEST(Snapshot, APausedMachineIsSavedAgainAndAgainAndStaysPaused) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  source.expect_progress("before");
  const auto stopped =
      run(folder, {"snapshot", "--qmp", folder.file("source.qmp"), folder.file("first"), "--stay-stopped"});
  ASSERT_EQ(stopped.code, 0) << stopped.err;
  EXPECT_THAT(stopped.out, HasSubstr("paused"));
  EXPECT_EQ(source.run_state(), "paused");
  for (const char* name : {"second", "third"}) {
    const auto saved =
        run(folder, {"snapshot", "--qmp", folder.file("source.qmp"), folder.file(name), "--mapped-ram"});
    ASSERT_EQ(saved.code, 0) << saved.err;
    EXPECT_EQ(source.run_state(), "paused");
  }
  // What was saved of a machine that ran runs; what was saved of a paused one is paused.
  Side running(folder, "running", from_file(folder.file("first")), false);
  expect_whole(running, "from the first");
  Side held(folder, "held", from_file(folder.file("first"), {"-S"}), false);
  EXPECT_EQ(held.run_state(), "paused");
  Side paused(folder, "paused", from_file(folder.file("third")), false);
  EXPECT_EQ(paused.run_state(), "paused");
  ASSERT_TRUE(paused.ask("cont"));
  expect_whole(paused, "from the third");
  ASSERT_TRUE(source.ask("cont"));
  expect_whole(source, "the source");
}

TEST(Snapshot, OneStateIsTheSameMemoryHoweverItIsSaved) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  source.expect_progress("before");
  ASSERT_TRUE(source.ask("stop"));
  std::vector<json> hashes;
  for (const auto& way : kWays) {
    source.set_capability("multifd", way.multifd);
    std::vector<std::string> command{"snapshot", "--qmp", folder.file("source.qmp"), folder.file(way.name)};
    command.insert(command.end(), way.flags.begin(), way.flags.end());
    ASSERT_EQ(run(folder, command).code, 0) << folder.text("stderr");
    const auto seen = run(folder, {"inspect", "--json", "--hash", folder.file(way.name)});
    ASSERT_EQ(seen.code, 0) << seen.err;
    hashes.push_back(json::parse(seen.out).at("ram_blocks").at(0).at("sha256"));
  }
  EXPECT_THAT(hashes, testing::Each(hashes.front()));
}

TEST(Snapshot, ALiveMachineIsMovedIntoAMappedFileBySeveralWriters) {
  for (const bool multifd : {false, true}) {
    TestFolder folder;
    Side source(folder, "source", {}, false);
    source.expect_progress("before");
    source.set_capability("mapped-ram", true);
    source.set_capability("multifd", multifd);
    ASSERT_TRUE(source.ask("migrate-set-parameters",
                           {{"max-bandwidth", 0}, {"downtime-limit", 60000}, {"direct-io", multifd}}));
    ASSERT_TRUE(source.ask("migrate", {{"uri", "file:" + folder.file("saved")}}));
    wait_until("the save", [&] { return is_final_status(source.migration_status()); });
    ASSERT_EQ(source.migration_status(), "completed") << source.ask("query-migrate")->dump();
    EXPECT_EQ(source.run_state(), "postmigrate");
    const auto figures = *source.ask("query-migrate");
    EXPECT_GT(figures.at("ram").at("transferred").get<std::uint64_t>(), 2u << 20);

    SideOptions options;
    options.more.insert(options.more.end(), {"--incoming", "defer"});
    Side restored(folder, "restored", options, false);
    restored.set_capability("multifd", multifd);
    ASSERT_TRUE(restored.ask("migrate-incoming", {{"uri", "file:" + folder.file("saved")}}));
    wait_until("the restored machine", [&] { return is_final_status(restored.migration_status()); });
    EXPECT_EQ(restored.run_state(), "running") << folder.text("restored.log");
    expect_whole(restored, fmt::format("restored, multifd {}", multifd));
  }
}

// The device's server stands still, and with it the snapshot; so the interrupt comes in its middle.
TEST(Snapshot, AnInterruptCallsItOffAndLeavesNothing) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  source.expect_progress("before");
  for (const auto& way : {kWays[0], kWays[3]}) {
    source.set_capability("multifd", way.multifd);
    source.device(0).signal(SIGSTOP);
    std::vector<std::string> command{"snapshot", "--qmp", folder.file("source.qmp"), folder.file("snap")};
    command.insert(command.end(), way.flags.begin(), way.flags.end());
    auto child = start(folder, command);
    wait_until("the snapshot to begin", [&] { return source.migration_status() == "setup"; });
    child.signal(SIGINT);
    for (std::string line; line.find("cancelling") == std::string::npos;) {
      auto next = child.read_line({}, patience());
      ASSERT_TRUE(next) << next.error().to_string();
      line = *next;
    }
    // The command's own cancel may still be on its way.
    ASSERT_TRUE(source.ask("migrate_cancel"));
    source.device(0).signal(SIGCONT);
    const auto outcome = finish(folder, std::move(child));
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("cancelled"), HasSubstr("the guest runs on")));
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(folder.file("snap")));
    EXPECT_FALSE(std::filesystem::exists(folder.file("snap.partial")));
    EXPECT_EQ(source.run_state(), "running");
    expect_whole(source, "after the interrupt, " + way.name);
  }
}

// A limit on the size of files, which the system reports as it reports a full disk.
TEST(Snapshot, AFullDiskFailsItWithTheFileNamedAndTheGuestRunsOn) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  source.expect_progress("before");
  const rlimit small{.rlim_cur = 3 << 20, .rlim_max = RLIM_INFINITY};
  const rlimit large{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(source.machine().pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  for (const auto& way : kWays) {
    source.set_capability("multifd", way.multifd);
    std::vector<std::string> command{"snapshot", "--qmp", folder.file("source.qmp"), folder.file("snap")};
    command.insert(command.end(), way.flags.begin(), way.flags.end());
    const auto outcome = run(folder, command);
    EXPECT_EQ(outcome.code, 1) << way.name;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("snap"), HasSubstr("too large"), HasSubstr("the guest runs on")))
        << way.name;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(folder.file("snap"))) << way.name;
    EXPECT_FALSE(std::filesystem::exists(folder.file("snap.partial"))) << way.name;
    EXPECT_EQ(source.run_state(), "running") << way.name;
  }
  ASSERT_EQ(::prlimit(source.machine().pid(), RLIMIT_FSIZE, &large, nullptr), 0);
  source.set_capability("multifd", false);
  const auto saved = run(folder, {"snapshot", "--qmp", folder.file("source.qmp"), folder.file("snap")});
  EXPECT_EQ(saved.code, 0) << saved.err;
  expect_whole(source, "after the failures");
}

TEST(Restore, WhatIsTornOrDoesNotFitEndsWithOneLineAndExitCodeOne) {
  TestFolder folder;
  {
    Side source(folder, "source", {.devices = 0}, false);
    source.expect_progress("before");
    for (const auto* flag : {"", "--mapped-ram"}) {
      std::vector<std::string> command{"snapshot", "--qmp", folder.file("source.qmp"),
                                       folder.file(*flag == '\0' ? "plain" : "mapped")};
      if (*flag != '\0') command.emplace_back(flag);
      ASSERT_EQ(run(folder, command).code, 0);
    }
  }
  const auto refused = [&](const std::string& file, const std::string& memory, const std::string& part) {
    const auto outcome = run(folder, {"run", "--memory", memory, "--restore", folder.file(file)});
    EXPECT_EQ(outcome.code, 1) << file << ": " << outcome.err;
    EXPECT_EQ(outcome.out, "") << file;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr(file), HasSubstr(part)));
  };
  refused("nothing", "64M", "No such file");
  refused("plain", "32M", "64");
  refused("mapped", "128M", "64");
  std::mt19937_64 random(test_seed());
  for (const char* file : {"plain", "mapped"}) {
    // The description at the end is some thousand bytes, and is not needed.
    auto size = std::filesystem::file_size(folder.file(file)) - 10000;
    for (int round = 0; round < 6; ++round, size -= random() % (size / 3)) {
      std::filesystem::resize_file(folder.file(file), size);
      refused(file, "64M", "missing: ");
    }
  }
}

TEST(Restore, NeedsNoControlSocketAndEndsBySignal) {
  TestFolder folder;
  {
    Side source(folder, "source", {.devices = 0}, false);
    source.expect_progress("before");
    ASSERT_EQ(run(folder, {"snapshot", "--qmp", folder.file("source.qmp"), folder.file("snap")}).code, 0);
  }
  auto machine = start(folder, {"run", "--memory", "64M", "--restore", folder.file("snap")});
  auto line = machine.read_line({}, patience());
  ASSERT_TRUE(line) << folder.text("stderr");
  EXPECT_THAT(*line, AllOf(HasSubstr("running from"), HasSubstr("snap")));
  EXPECT_EQ(machine.terminate(), 0);
}

TEST(SnapshotCommand, UsageErrorsEndWithTwo) {
  TestFolder folder;
  for (const auto& [arguments, part] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"snapshot", "file"}, "--qmp"},
           {{"snapshot", "--qmp", "x"}, "FILE"},
           {{"snapshot", "--qmp", "x", "f", "--direct-io"}, "--mapped-ram"},
           {{"run", "--restore", "f", "--incoming", "defer", "--qmp", "x"}, "--incoming"},
           {{"run", "--restore", "file:,offset=2"}, "file:PATH"}}) {
    const auto outcome = run(folder, arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
  }
  const auto outcome = run(folder, {"snapshot", "--qmp", folder.file("nobody.sock"), folder.file("snap")});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("nobody.sock"));
}

}  // namespace
}  // namespace handover::test
