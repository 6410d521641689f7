// Several device servers in one machine, all in real processes: peer to peer DMA while they migrate, devices
// that come and go, and what a manager can ask beforehand.

#include <gmock/gmock.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "integration/two_machines.h"

namespace handover::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

SideOptions busy(std::uint32_t devices, std::vector<std::string> more = {}) {
  SideOptions options;
  options.devices = devices;
  options.device_memory = "4M";
  options.more = {"--dirty-rate", "20M", "--job-rate", "800"};
  options.more.insert(options.more.end(), more.begin(), more.end());
  return options;
}

std::uint64_t figure(Side& side, const char* name) {
  return side.guest().value(name, std::uint64_t{0});
}

void wait_for_more(Side& side, const char* name, std::uint64_t more) {
  const auto before = figure(side, name);
  wait_until(fmt::format("{} more {}", more, name), [&] { return figure(side, name) >= before + more; });
}

void migrate(TestFolder& folder, Side& from, Side& to, const std::string& from_name) {
  ASSERT_TRUE(from.ask("migrate-set-parameters", {{"max-bandwidth", 0}, {"downtime-limit", 60000}}));
  const auto started = from.ask("migrate", {{"uri", to.listening_on()}});
  ASSERT_TRUE(started) << started.error().to_string();
  wait_until("the migration", [&] { return is_final_status(from.migration_status()); });
  ASSERT_EQ(from.migration_status(), "completed") << folder.text(from_name + ".log");
}

void expect_sound(Side& side, std::uint32_t devices) {
  auto verified = side.ask("x-handover-verify");
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->at("devices"), devices);
  EXPECT_EQ(figure(side, "mismatches"), 0u);
  EXPECT_EQ(figure(side, "interrupts-lost"), 0u);
}

// There and back: the second hop goes to fresh processes on the first side.
TEST(SeveralDevices, PeerToPeerDmaSurvivesTheWayThereAndBack) {
  for (const std::uint32_t devices : {2u, 3u}) {
    TestFolder folder;
    Side home(folder, "home", busy(devices), false);
    Side away(folder, "away", busy(devices), true);
    Side back(folder, "back", busy(devices), true);
    wait_for_more(home, "p2p-jobs", 100);
    migrate(folder, home, away, "home");
    wait_for_more(away, "p2p-jobs", 50);
    expect_sound(away, devices);
    wait_for_more(away, "p2p-jobs", 20);
    migrate(folder, away, back, "away");
    wait_for_more(back, "p2p-jobs", 50);
    expect_sound(back, devices);
    EXPECT_EQ(figure(back, "p2p-faults"), 0u);
  }
}

// Mission C8.
TEST(SeveralDevices, WithPeerToPeerOffEveryTryFaultsOnBothSides) {
  TestFolder folder;
  Side source(folder, "source", busy(2, {"--p2p", "off"}), false);
  Side destination(folder, "destination", busy(2, {"--p2p", "off"}), true);
  wait_for_more(source, "p2p-faults", 2);
  migrate(folder, source, destination, "source");
  wait_for_more(destination, "p2p-faults", 2);
  EXPECT_EQ(figure(destination, "p2p-jobs"), 0u);
  expect_sound(destination, 2);
}

TEST(SeveralDevices, SidesThatDifferInPeerToPeerAreToldWhatToChange) {
  TestFolder folder;
  Side source(folder, "source", busy(2), false);
  Side destination(folder, "destination", busy(2, {"--p2p", "off"}), true);
  ASSERT_TRUE(source.ask("migrate", {{"uri", destination.listening_on()}}));
  wait_until("the refusal", [&] { return is_final_status(source.migration_status()); });
  EXPECT_EQ(source.migration_status(), "failed");
  EXPECT_THAT(folder.text("destination.log"), HasSubstr("--p2p on"));
  wait_for_more(source, "p2p-jobs", 10);
}

// Missions C6 and C8.
TEST(SeveralDevices, ADeviceWithoutP2pBlocksItsMachineUnlessPeersAreOutOfReach) {
  TestFolder folder;
  auto mixed = busy(2);
  mixed.last_device = {"--p2p", "off"};
  {
    Side machine(folder, "blocked", mixed, false);
    const auto refused = machine.ask("migrate", {{"uri", "tcp:127.0.0.1:1"}});
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().to_string(), AllOf(HasSubstr("`accel1`"), HasSubstr("--p2p off")));
    EXPECT_EQ(machine.run_state(), "running");
  }
  mixed.more.insert(mixed.more.end(), {"--p2p", "off"});
  Side source(folder, "source", mixed, false);
  Side destination(folder, "destination", mixed, true);
  wait_for_more(source, "jobs-completed", 100);
  migrate(folder, source, destination, "source");
  wait_for_more(destination, "jobs-completed", 100);
  expect_sound(destination, 2);
}

std::size_t entries(pid_t pid, const char* what) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/{}", pid, what)))
    ++count;
  return count;
}

// Mission A6, over the control socket.
TEST(SeveralDevices, ADeviceThatComesAndGoesLeavesNothingInTheProcess) {
  TestFolder folder;
  Side machine(folder, "machine", busy(2), false);
  wait_for_more(machine, "p2p-jobs", 10);
  const auto socket = folder.file("extra.sock");
  auto server = cli::ChildProcess::start(
      {HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent", "--socket", socket, "--memory", "1M"},
      {.name = "extra", .stderr_path = folder.file("extra.log")});
  ASSERT_TRUE(server) << server.error().to_string();
  ASSERT_TRUE(server->read_line({}, patience()));
  const json extra{{"driver", "vfio-user-pci"}, {"id", "extra"}, {"socket", socket}};
  auto round = [&] {
    const auto plugged = machine.ask("device_add", extra);
    ASSERT_TRUE(plugged) << plugged.error().to_string();
    const auto unplugged = machine.ask("device_del", {{"id", "extra"}});
    ASSERT_TRUE(unplugged) << unplugged.error().to_string();
  };
  ASSERT_NO_FATAL_FAILURE(round());
  const auto pid = machine.machine().pid();
  const auto files = entries(pid, "fd");
  const auto threads = entries(pid, "task");
  for (int i = 0; i < 100; ++i)
    ASSERT_NO_FATAL_FAILURE(round()) << i;
  wait_until("what was opened to be closed",
             [&] { return entries(pid, "fd") <= files && entries(pid, "task") <= threads; });

  ASSERT_TRUE(machine.ask("device_add", extra));
  Side destination(folder, "destination", busy(2, {"--incoming", "defer"}), false);
  const auto there = folder.file("there.sock");
  auto other = cli::ChildProcess::start(
      {HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent", "--socket", there, "--memory", "1M"},
      {.name = "there", .stderr_path = folder.file("there.log")});
  ASSERT_TRUE(other && other->read_line({}, patience()));
  auto arriving = extra;
  arriving["socket"] = there;
  const auto completed = destination.ask("device_add", arriving);
  ASSERT_TRUE(completed) << completed.error().to_string();
  ASSERT_TRUE(destination.ask("migrate-incoming", {{"uri", "tcp:127.0.0.1:0"}}));
  migrate(folder, machine, destination, "machine");
  wait_for_more(destination, "p2p-jobs", 20);
  expect_sound(destination, 2);
  const auto devices = destination.ask("x-handover-query-devices");
  ASSERT_TRUE(devices);
  EXPECT_EQ(devices->at(2).at("id"), "extra");
}

struct Printed {
  int code = -1;
  std::string out, err;
};
Printed query(TestFolder& folder, std::vector<std::string> words) {
  words.insert(words.begin(), {"/bin/sh", "-c", "exec \"$0\" \"$@\" >\"" + folder.file("stdout") + "\"",
                               HANDOVER_BINARY, "query"});
  auto child = cli::ChildProcess::start(words, {.name = "query", .stderr_path = folder.file("stderr")});
  if (!child) return {-1, "", child.error().to_string()};
  const auto code = child->wait({}, patience());
  return {code ? *code : -1, folder.text("stdout"), folder.text("stderr")};
}

// Mission A8: devices behind an IOMMU, there and back.
TEST(SeveralDevices, AGuestWithAnIommuMovesAndGoesOnMapping) {
  TestFolder folder;
  const auto options = busy(2, {"--viommu"});
  Side home(folder, "home", options, false);
  Side away(folder, "away", options, true);
  Side back(folder, "back", options, true);
  wait_for_more(home, "iommu-faults", 5);
  migrate(folder, home, away, "home");
  const auto tracking = home.ask("query-migrate")->at("vfio").at("x-handover-dirty-tracking");
  EXPECT_EQ(tracking.size(), 2u);
  EXPECT_EQ(tracking.at(1).at("tracker"), "device");
  EXPECT_THAT(tracking.at(1).at("who").get<std::string>(), HasSubstr("accel1"));
  wait_for_more(away, "iommu-faults", 5);
  wait_for_more(away, "iommu-mappings", 100);
  expect_sound(away, 2);
  migrate(folder, away, back, "away");
  wait_for_more(back, "iommu-mappings", 100);
  expect_sound(back, 2);
  EXPECT_EQ(figure(back, "p2p-jobs"), 0u);
}

TEST(SeveralDevices, ADeviceThatNobodyTracksIsNamedWithTheReason) {
  TestFolder folder;
  auto untracked = busy(2);
  untracked.last_device = {"--dma-log", "off"};
  Side source(folder, "source", untracked, false);
  Side destination(folder, "destination", untracked, true);
  const auto shown = query(folder, {"--qmp", folder.file("source.qmp"), "devices"});
  EXPECT_THAT(shown.out,
              HasSubstr("device `accel1` has no DMA log; iommufd is not in use; no type1 container is "
                        "in use; all pages are taken as dirty"));
  wait_for_more(source, "jobs-completed", 50);
  migrate(folder, source, destination, "source");
  EXPECT_THAT(folder.text("source.log"), HasSubstr("pre-copy-dirty-page-tracking=off"));
  EXPECT_EQ(source.ask("x-handover-report")->at("dirty-tracking").at(1).at("tracker"), "all");
  wait_for_more(destination, "jobs-completed", 50);
  expect_sound(destination, 2);
}

// Mission C7.
TEST(SeveralDevices, WhatBlocksAMigrationCanBeAskedByCommand) {
  TestFolder folder;
  Side machine(folder, "machine", busy(2), false);
  const auto qmp = folder.file("machine.qmp");
  auto said = query(folder, {"--qmp", qmp, "blockers"});
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_EQ(said.out, "nothing blocks a migration\n");
  said = query(folder, {"--qmp", qmp, "blockers", "--json"});
  EXPECT_EQ(json::parse(said.out), json::array());

  said = query(folder, {"--qmp", qmp, "devices"});
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_THAT(said.out, AllOf(HasSubstr("accel1"), HasSubstr("0000:00:02.0"), HasSubstr("484f:acc1"),
                              HasSubstr("v2 (stop-copy, pre-copy, p2p)"),
                              HasSubstr("dirty tracking: the device logs its own DMA")));

  machine.device(0).signal(SIGKILL);
  wait_until("the loss to be noticed",
             [&] { return machine.ask("query-migrate")->contains("blocked-reasons"); });
  said = query(folder, {"--qmp", qmp, "blockers"});
  EXPECT_EQ(said.code, 1);
  EXPECT_THAT(said.out, AllOf(HasSubstr("accel0"), HasSubstr("is lost")));
  EXPECT_EQ(std::ranges::count(said.out, '\n'), 1) << said.out;
  said = query(folder, {"--qmp", qmp, "blockers", "--json"});
  EXPECT_EQ(said.code, 1);
  EXPECT_EQ(json::parse(said.out).size(), 1u);
  said = query(folder, {"--qmp", qmp, "devices"});
  EXPECT_THAT(said.out, HasSubstr("blocks migration: it is lost"));
  EXPECT_EQ(query(folder, {"--qmp", folder.file("nobody"), "devices"}).code, 1);
}

}  // namespace
}  // namespace handover::test
