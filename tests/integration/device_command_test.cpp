// `handover device` with real device servers: what vendors type.

#include <gmock/gmock.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "integration/two_machines.h"
#include "support/accelerator_content.h"

namespace handover::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// A device server process.
struct Device {
  Device(TestFolder& folder, const std::string& name, const std::string& memory = "8M")
      : socket(folder.file(name + ".sock")), target("vfio-user:" + socket) {
    auto started = cli::ChildProcess::start({HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent",
                                             "--socket", socket, "--memory", memory},
                                            {.name = name, .stderr_path = folder.file(name + ".log")});
    if (!started) throw std::runtime_error(started.error().to_string());
    process = std::make_unique<cli::ChildProcess>(std::move(*started));
    if (auto ready = process->read_line({}, patience()); !ready)
      throw std::runtime_error(ready.error().to_string());
  }
  void fill(std::uint64_t seed) const { AcceleratorContent(socket).fill(seed); }
  std::uint64_t hash() const { return AcceleratorContent(socket).hash(); }

  std::string socket;
  std::string target;
  std::unique_ptr<cli::ChildProcess> process;
};

/// One `handover device` command.
class Command {
 public:
  Command(TestFolder& folder, const std::string& name, std::vector<std::string> arguments)
      : folder_(folder), name_(name) {
    arguments.insert(arguments.begin(),
                     {"/bin/sh", "-c", "exec \"$0\" \"$@\" >\"" + folder.file(name + ".out") + "\"",
                      HANDOVER_BINARY, "device"});
    auto started =
        cli::ChildProcess::start(arguments, {.name = name, .stderr_path = folder.file(name + ".err")});
    if (!started) throw std::runtime_error(started.error().to_string());
    child = std::make_unique<cli::ChildProcess>(std::move(*started));
  }
  int wait() {
    auto code = child->wait({}, patience());
    return code ? *code : -1;
  }
  std::string out() const { return folder_.text(name_ + ".out"); }
  std::string err() const { return folder_.text(name_ + ".err"); }

  std::unique_ptr<cli::ChildProcess> child;

 private:
  TestFolder& folder_;
  std::string name_;
};

struct Ran {
  int code;
  std::string out, err;
};

Ran run(TestFolder& folder, const std::vector<std::string>& arguments) {
  Command command(folder, "command", arguments);
  const int code = command.wait();
  return {code, command.out(), command.err()};
}

json parsed(const std::string& text) {
  auto object = json::parse(text, nullptr, false);
  return object.is_discarded() ? json::object() : object;
}

std::string state_of(TestFolder& folder, const Device& device) {
  const auto info = run(folder, {"info", device.target, "--json"});
  EXPECT_EQ(info.code, 0) << info.err;
  return parsed(info.out)["migration"].value("state", "none");
}

/// What `handover inspect` says of a stream.
json inspected(TestFolder& folder, const std::string& file) {
  auto child =
      cli::ChildProcess::start({"/bin/sh", "-c", "exec \"$0\" \"$@\" >\"" + folder.file("inspect.out") + "\"",
                                HANDOVER_BINARY, "inspect", "--json", "--hash", folder.file(file)},
                               {.name = "inspect", .stderr_path = folder.file("inspect.err")});
  if (!child) throw std::runtime_error(child.error().to_string());
  EXPECT_EQ(child->wait({}, patience()), 0) << folder.text("inspect.err");
  return parsed(folder.text("inspect.out"));
}

std::size_t files_named(const TestFolder& folder, const std::string& part) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.file("")))
    count += entry.path().filename().string().find(part) != std::string::npos ? 1 : 0;
  return count;
}

/// Waits until the source of a command reads its device while that runs.
void wait_for_rounds(TestFolder& folder, const Command& command) {
  wait_until("rounds of pre-copy", [&] { return command.out().find("pre-copy") != std::string::npos; });
  (void)folder;
}

// So many that nobody sees the end.
const std::vector<std::string> kEndless = {"--pre-copy-rounds", "4000000000", "--max-bandwidth", "8M"};

std::vector<std::string> endless(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), kEndless.begin(), kEndless.end());
  return arguments;
}

TEST(DeviceCommand, InfoSaysWhatTheDeviceIs) {
  TestFolder folder;
  const Device device(folder, "device");
  const auto table = run(folder, {"info", device.target});
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out,
              AllOf(HasSubstr("484f:acc1"), HasSubstr("processing accelerator"), HasSubstr("BAR 2"),
                    HasSubstr("124.0 KiB at 0x1000"), HasSubstr("stop-copy, pre-copy, p2p"),
                    HasSubstr("running-p2p"), HasSubstr("MSI-X")));
  const auto facts = parsed(run(folder, {"info", device.target, "--json"}).out);
  EXPECT_EQ(facts["pci"]["vendor"], 0x484f);
  EXPECT_EQ(facts["migration"]["state"], "running");
  EXPECT_EQ(facts["migration"]["precopy-info"], true);
  EXPECT_GT(facts["migration"]["stop-copy-bytes"], 0);
  EXPECT_EQ(facts["dma-log"], true);
}

TEST(DeviceCommand, ASavedStateIsTheSameInADeviceThatLoadsIt) {
  const std::vector<std::vector<std::string>> ways = {{}, {"--stop-only"}, {"--pre-copy-rounds", "3"}};
  const auto seed = test_seed();
  for (std::size_t i = 0; i < ways.size(); ++i) {
    TestFolder folder;
    const Device here(folder, "here");
    const Device there(folder, "there");
    here.fill(seed + i);
    there.fill(seed + 100);
    std::vector<std::string> save = {"save", here.target, folder.file("state"), "--json",
                                     folder.file("save.json")};
    save.insert(save.end(), ways[i].begin(), ways[i].end());
    const auto saved = run(folder, save);
    ASSERT_EQ(saved.code, 0) << saved.err;
    EXPECT_THAT(saved.out, AllOf(HasSubstr("the device runs"), HasSubstr("stop time")));
    EXPECT_EQ(files_named(folder, "partial"), 0u);
    const auto report = parsed(folder.text("save.json"));
    EXPECT_EQ(report["status"], "completed");
    EXPECT_EQ(report["source"]["left-in"], "running");
    const std::uint64_t precopy = report["source"]["pre-copy"]["bytes"];
    const std::uint64_t stopped = report["source"]["stop-copy"]["bytes"];
    EXPECT_GE(precopy + stopped, 8 * MiB);
    EXPECT_EQ(precopy > 8 * MiB, i != 1) << "what does not change goes while the device runs";
    EXPECT_EQ(stopped > 8 * MiB, i == 1);
    if (i == 2) {
      EXPECT_EQ(report["source"]["pre-copy"]["rounds"], 3);
    }

    const auto facts = inspected(folder, "state");
    EXPECT_EQ(facts["vfio"].size(), 1u);
    EXPECT_THAT(folder.text("inspect.out"), HasSubstr("handover-device"));

    const auto loaded = run(folder, {"load", there.target, folder.file("state")});
    ASSERT_EQ(loaded.code, 0) << loaded.err;
    EXPECT_THAT(loaded.out, HasSubstr("the device runs"));
    // Read again, both give the same, to the last byte.
    for (const auto* device : {&here, &there})
      ASSERT_EQ(
          run(folder, {"save", device->target, folder.file(device == &here ? "a" : "b"), "--stop-only"}).code,
          0);
    const auto data = [&](const char* file) {
      return inspected(folder, file)["vfio"]["device/vfio"].value("device_data_sha256", std::string(file));
    };
    EXPECT_EQ(data("a"), data("b"));
    EXPECT_EQ(here.hash(), there.hash());
  }
}

TEST(DeviceCommand, ADeviceCanBeLeftStoppedAndStartedAgain) {
  TestFolder folder;
  const Device device(folder, "device");
  ASSERT_EQ(run(folder, {"save", device.target, folder.file("state"), "--stay-stopped"}).code, 0);
  EXPECT_EQ(state_of(folder, device), "stop");
  EXPECT_EQ(state_of(folder, device), "stop") << "looking at it changes nothing";
  const auto saved = run(folder, {"save", device.target, folder.file("again")});
  EXPECT_EQ(saved.code, 0) << saved.err;
  EXPECT_EQ(state_of(folder, device), "stop") << "it is left as it was found";
  ASSERT_EQ(run(folder, {"start", device.target}).code, 0);
  EXPECT_EQ(state_of(folder, device), "running");
  ASSERT_EQ(run(folder, {"load", device.target, folder.file("state"), "--stay-stopped"}).code, 0);
  EXPECT_EQ(state_of(folder, device), "stop");
  ASSERT_EQ(run(folder, {"load", device.target, folder.file("again")}).code, 0);
  EXPECT_EQ(state_of(folder, device), "running");
}

void migrate_here(const std::vector<std::string>& options, int channels) {
  TestFolder folder;
  const Device here(folder, "here");
  const Device there(folder, "there");
  here.fill(test_seed());
  const auto content = here.hash();
  std::vector<std::string> arguments = {"migrate", here.target, there.target, "--json",
                                        folder.file("report")};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const auto moved = run(folder, arguments);
  ASSERT_EQ(moved.code, 0) << moved.err;
  EXPECT_THAT(moved.out, AllOf(HasSubstr("stays in STOP"), HasSubstr("downtime"), HasSubstr("destination")));
  const auto report = parsed(folder.text("report"));
  EXPECT_EQ(report["source"]["left-in"], "stop");
  EXPECT_EQ(report["destination"]["left-in"], "running");
  EXPECT_EQ(report["stream"]["multifd-channels"], channels);
  EXPECT_GE(report["destination"]["load"]["bytes"], 8 * MiB);
  EXPECT_EQ(state_of(folder, here), "stop") << "one runner";
  EXPECT_EQ(state_of(folder, there), "running");
  EXPECT_EQ(there.hash(), content);
}

TEST(DeviceCommand, ADeviceMovesToAnotherOfThisHost) {
  migrate_here({}, 0);
}
TEST(DeviceCommand, ADeviceMovesOverOneMultifdChannel) {
  migrate_here({"--multifd-channels", "1", "--switchover-ack"}, 1);
}
TEST(DeviceCommand, ADeviceThatIsReadStoppedMovesOverFourMultifdChannels) {
  migrate_here({"--multifd-channels", "4", "--stop-only"}, 4);
}

TEST(DeviceCommand, ADeviceMovesToAnotherProcess) {
  for (const bool multifd : {false, true}) {
    TestFolder folder;
    const Device here(folder, "here");
    const Device there(folder, "there");
    here.fill(test_seed());
    const auto content = here.hash();
    Command load(folder, "load", {"load", there.target, "--listen", "tcp:127.0.0.1:0"});
    wait_until("the destination to listen", [&] { return load.out().find('\n') != std::string::npos; });
    const auto said = load.out();
    const auto address = said.substr(said.find("tcp:"), said.find('\n') - said.find("tcp:"));
    std::vector<std::string> arguments = {"migrate", here.target, address};
    if (multifd) arguments.insert(arguments.end(), {"--multifd-channels", "3"});
    const auto moved = run(folder, arguments);
    EXPECT_EQ(moved.code, 0) << moved.err;
    EXPECT_EQ(load.wait(), 0) << load.err();
    EXPECT_THAT(load.out(), HasSubstr("the device runs"));
    EXPECT_EQ(state_of(folder, here), "stop");
    EXPECT_EQ(there.hash(), content);
  }
}

TEST(DeviceCommand, AnInterruptedSaveLeavesTheDeviceRunningAndTheOldFile) {
  TestFolder folder;
  const Device device(folder, "device");
  device.fill(1);
  const auto content = device.hash();
  std::ofstream(folder.file("state")) << "old";
  Command save(folder, "save", endless({"save", device.target, folder.file("state")}));
  wait_for_rounds(folder, save);
  EXPECT_EQ(files_named(folder, "partial"), 1u);
  save.child->signal(SIGINT);
  EXPECT_EQ(save.wait(), 1);
  EXPECT_THAT(save.err(), AllOf(HasSubstr("cancelled"), HasSubstr("the device runs")));
  EXPECT_EQ(files_named(folder, "partial"), 0u);
  EXPECT_EQ(folder.text("state"), "old");
  EXPECT_EQ(state_of(folder, device), "running");
  EXPECT_EQ(device.hash(), content);
}

TEST(DeviceCommand, AnInterruptedMigrationLeavesTheSourceRunning) {
  TestFolder folder;
  const Device here(folder, "here");
  const Device there(folder, "there");
  Command migrate(folder, "migrate", endless({"migrate", here.target, there.target}));
  wait_for_rounds(folder, migrate);
  migrate.child->signal(SIGTERM);
  EXPECT_EQ(migrate.wait(), 1);
  EXPECT_THAT(migrate.err(), AllOf(HasSubstr("cancelled"), HasSubstr("the source's device runs")));
  EXPECT_EQ(state_of(folder, here), "running");
  EXPECT_EQ(state_of(folder, there), "running") << "it was reset";
}

TEST(DeviceCommand, ADestinationThatIsKilledIsAFailureAndTheSourceRunsOn) {
  TestFolder folder;
  const Device here(folder, "here");
  const Device there(folder, "there");
  Command load(folder, "load", {"load", there.target, "--listen", "unix:" + folder.file("meet")});
  wait_until("the destination to listen", [&] { return load.out().find('\n') != std::string::npos; });
  Command migrate(folder, "migrate", endless({"migrate", here.target, "unix:" + folder.file("meet")}));
  wait_for_rounds(folder, migrate);
  load.child->signal(SIGKILL);
  EXPECT_EQ(migrate.wait(), 1);
  EXPECT_THAT(migrate.err(), HasSubstr("the source's device runs"));
  EXPECT_EQ(state_of(folder, here), "running");
}

TEST(DeviceCommand, ATornFileIsRefusedAndTheDeviceIsReset) {
  TestFolder folder;
  const Device here(folder, "here");
  const Device there(folder, "there");
  here.fill(1);
  there.fill(2);
  const auto theirs = there.hash();
  ASSERT_EQ(run(folder, {"save", here.target, folder.file("state")}).code, 0);
  std::filesystem::resize_file(folder.file("state"), 5 * MiB);
  const auto loaded = run(folder, {"load", there.target, folder.file("state")});
  EXPECT_EQ(loaded.code, 1);
  EXPECT_THAT(loaded.err, AllOf(HasSubstr("too early"), HasSubstr("the device was reset")));
  EXPECT_EQ(state_of(folder, there), "running");
  EXPECT_NE(there.hash(), theirs);
  EXPECT_NE(there.hash(), here.hash());
}

TEST(DeviceCommand, WhatDoesNotFitIsRefused) {
  TestFolder folder;
  const Device here(folder, "here");
  const Device larger(folder, "larger", "16M");
  ASSERT_EQ(run(folder, {"save", here.target, folder.file("state")}).code, 0);
  // Only the device itself knows how much memory it has.
  const auto loaded = run(folder, {"load", larger.target, folder.file("state")});
  EXPECT_EQ(loaded.code, 1);
  EXPECT_THAT(loaded.err, HasSubstr("the device was reset"));
  EXPECT_THAT(folder.text("larger.log"), HasSubstr("16 MiB here and 8 MiB in the stream"));
  const auto moved = run(folder, {"migrate", here.target, larger.target});
  EXPECT_EQ(moved.code, 1);
  EXPECT_THAT(moved.err, AllOf(HasSubstr("the source's device runs"), HasSubstr("the device was reset")));
  EXPECT_EQ(state_of(folder, here), "running");

  std::ofstream(folder.file("noise")) << "no stream at all";
  const auto noise = run(folder, {"load", here.target, folder.file("noise")});
  EXPECT_EQ(noise.code, 1);
  EXPECT_THAT(noise.err, HasSubstr("the device is as it was"));
  EXPECT_EQ(run(folder, {"load", here.target, folder.file("nowhere")}).code, 1);
}

TEST(DeviceCommand, ACommandTakesAndGivesAState) {
  TestFolder folder;
  const Device here(folder, "here");
  const Device there(folder, "there");
  here.fill(3);
  const auto file = folder.file("packed");
  const auto saved = run(folder, {"save", here.target, "exec:gzip > " + file});
  ASSERT_EQ(saved.code, 0) << saved.err;
  EXPECT_THAT(saved.out, HasSubstr("the device runs"));
  const auto loaded = run(folder, {"load", there.target, "exec:gzip -d < " + file});
  ASSERT_EQ(loaded.code, 0) << loaded.err;
  EXPECT_EQ(here.hash(), there.hash());
  // All has been read when it fails.
  const auto failed = run(folder, {"save", here.target, "exec:cat > /dev/null; exit 3"});
  EXPECT_EQ(failed.code, 1);
  EXPECT_THAT(failed.err, AllOf(HasSubstr("status 3"), HasSubstr("the device runs")));
  EXPECT_EQ(state_of(folder, here), "running");
}

TEST(DeviceCommand, WhatIsTypedWrongIsSaidWithTheWayOut) {
  TestFolder folder;
  const Device device(folder, "device");
  const auto expect = [&](const std::vector<std::string>& arguments, int code, const std::string& said) {
    const auto outcome = run(folder, arguments);
    EXPECT_EQ(outcome.code, code) << said;
    EXPECT_THAT(outcome.err, HasSubstr(said));
  };
  expect({}, 2, "--help");
  expect({"info"}, 2, "TARGET");
  expect({"info", "toaster:/x"}, 1, "vfio-user:/path/of/the.sock");
  expect({"info", "vfio-user:" + folder.file("nobody")}, 1, "start the device server first");
  expect({"save", device.target, "tcp:127.0.0.1:1"}, 1, "handover device migrate");
  expect({"save", device.target, folder.file("x"), "--stop-only", "--pre-copy-rounds", "2"}, 2,
         "--stop-only");
  expect({"save", device.target, folder.file("x"), "--pre-copy-rounds", "0"}, 2, "--pre-copy-rounds");
  expect({"save", device.target, folder.file("no/such/folder")}, 1, "No such file");
  expect({"load", device.target}, 1, "--listen");
  expect({"load", device.target, "--listen", folder.file("x")}, 1, "tcp:HOST:PORT");
  expect({"migrate", device.target, device.target}, 1, "itself");
  expect({"migrate", device.target, "somewhere"}, 2, "handover device load --listen");
  expect({"migrate", device.target, "file:" + folder.file("x")}, 1, "handover device save");
  EXPECT_EQ(state_of(folder, device), "running");
  EXPECT_EQ(files_named(folder, "partial"), 0u);
}

}  // namespace
}  // namespace handover::test
