// What a person sees who types something wrong: one line that says what and how to mend it, exit code 2 for
// usage and 1 for the rest, and nothing left running.

#include <gmock/gmock.h>

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>

#include "integration/two_machines.h"

namespace handover::test {
namespace {

using testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string said;
};

Outcome run(TestFolder& folder, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), HANDOVER_BINARY);
  auto child =
      cli::ChildProcess::start(arguments, {.name = "handover", .stderr_path = folder.file("stderr")});
  if (!child) return {-1, child.error().to_string()};
  auto code = child->wait({}, patience());
  return {code ? *code : -1, folder.text("stderr")};
}

void expect(TestFolder& folder, std::vector<std::string> arguments, int code, const std::string& part) {
  const auto outcome = run(folder, arguments);
  const auto line = fmt::format("handover {}", fmt::join(arguments, " "));
  EXPECT_EQ(outcome.code, code) << line << "\n" << outcome.said;
  EXPECT_THAT(outcome.said, HasSubstr(part)) << line;
  if (code == 1) {
    EXPECT_EQ(std::ranges::count(outcome.said, '\n'), 1) << line << "\n" << outcome.said;
  }
}

TEST(CommandLine, UsageErrorsEndWithTwoAndSayWhatIsRight) {
  TestFolder folder;
  const auto socket = folder.file("x.sock");
  expect(folder, {}, 2, "--help");
  expect(folder, {"fly"}, 2, "fly");
  expect(folder, {"serve", "accelerator"}, 2, "--socket");
  expect(folder, {"serve", "accelerator", "--socket", socket, "--memory", "0"}, 2, "1M");
  expect(folder, {"serve", "accelerator", "--socket", socket, "--memory", "-5"}, 2, "--memory");
  expect(folder, {"serve", "accelerator", "--socket", socket, "--memory", "many"}, 2, "many");
  const auto serve = [&](std::vector<std::string> more, const std::string& part) {
    more.insert(more.begin(), {"serve", "accelerator", "--socket", socket});
    expect(folder, std::move(more), 2, part);
  };
  serve({"--migration", "v3"}, "{v2,v1,none}");
  serve({"--pre-copy", "maybe"}, "{on,off}");
  serve({"--migration", "v1", "--p2p", "on"}, "--p2p on does not go with --migration v1");
  serve({"--p2p", "on", "--migration", "none"}, "--p2p on does not go with --migration none");
  serve({"--migration", "none", "--pre-copy", "on"}, "--pre-copy on does not go with");
  serve({"--migration", "none", "--load-cost", "1s"}, "--load-cost 1s does not go with");
  serve({"--dma-log", "off", "--dma-log-ranges", "2"}, "--dma-log-ranges does not go with --dma-log off");
  serve({"--dma-log-bytes", "1G", "--dma-log", "off"}, "--dma-log-bytes does not go with --dma-log off");
  serve({"--dma-log-ranges", "0"}, "--dma-log-ranges");
  serve({"--dma-log-bytes", "5000"}, "no multiple of 4K");
  for (const char* wrong : {"70", "-1s", "1.5s", "1m", "61s", "99999999999999999999s", ""})
    serve({"--load-cost", wrong}, "from 0 to 60s are possible, for example 70ms");
  expect(folder, {"run", "--memory", "0"}, 2, "--memory");
  expect(folder, {"run", "--memory", "64M", "--device", "toaster,id=a"}, 2, "vfio-user,socket=");
  expect(folder, {"run", "--memory", "64M", "--device", "vfio-user,id=a"}, 2, "socket");
  expect(folder, {"run", "--memory", "64M", "--incoming", "tcp:nowhere"}, 2, "tcp:HOST:PORT");
  expect(folder, {"migrate", "--qmp", socket, "carrier-pigeon:7"}, 2, "tcp:");
  expect(folder, {"migrate", "tcp:127.0.0.1:1"}, 2, "--qmp");
  expect(folder, {"resolve", "--qmp", socket}, 2, "--resume");
}

TEST(CommandLine, WhatIsNotThereIsNamed) {
  TestFolder folder;
  const auto socket = folder.file("nobody.sock");
  expect(folder, {"run", "--memory", "64M", "--device", "vfio-user,socket=" + socket + ",id=accel0"}, 1,
         socket);
  expect(folder, {"migrate", "--qmp", socket, "tcp:127.0.0.1:1"}, 1, socket);
  expect(folder, {"inspect", folder.file("nothing.mig")}, 1, "nothing.mig");
  expect(folder, {"serve", "accelerator", "--socket", folder.file("no/such/folder/x.sock")}, 1,
         "no/such/folder");
}

TEST(CommandLine, ADestinationThatNobodyRunsIsSaidAndTheMachineRunsOn) {
  TestFolder folder;
  Side source(folder, "source", {.devices = 0}, false);
  expect(folder, {"migrate", "--qmp", folder.file("source.qmp"), "tcp:127.0.0.1:1"}, 1, "127.0.0.1:1");
  EXPECT_EQ(source.run_state(), "running");
}

struct Mismatch {
  std::string name;
  SideOptions destination;
  std::vector<std::string> parts;
};

TEST(CommandLine, ADestinationThatDoesNotFitIsRefusedWithBothSidesNamed) {
  const SideOptions same;
  const Mismatch cases[] = {
      {"less memory", {.memory = "32M"}, {"32", "64"}},
      {"smaller device", {.device_memory = "8M"}, {"accel0", "8", "16"}},
      {"a device less", {.devices = 0}, {"device"}},
      {"a device more", {.devices = 2}, {"device"}},
  };
  for (const auto& wrong : cases) {
    TestFolder folder;
    Side source(folder, "source", same, false);
    Side destination(folder, "destination", wrong.destination, true);
    const auto outcome =
        run(folder, {"migrate", "--qmp", folder.file("source.qmp"), destination.listening_on()});
    EXPECT_EQ(outcome.code, 1) << wrong.name << ": " << outcome.said;
    EXPECT_EQ(source.run_state(), "running") << wrong.name;
    source.expect_progress(wrong.name);
    auto code = destination.machine().wait({}, patience());
    ASSERT_TRUE(code) << wrong.name;
    EXPECT_EQ(*code, 1) << wrong.name;
    for (const auto& part : wrong.parts)
      EXPECT_THAT(folder.text("destination.log") + folder.text("destination-accel0.log"), HasSubstr(part))
          << wrong.name;
  }
}

TEST(CommandLine, TerminatedProcessesLeaveNoSocketBehind) {
  TestFolder folder;
  {
    Side side(folder, "source", {}, false);
    EXPECT_EQ(side.machine().terminate(), 0);
    EXPECT_EQ(side.device(0).terminate(), 0);
  }
  for (const auto* name : {"source.qmp", "source-accel0.sock"})
    EXPECT_NE(::access(folder.file(name).c_str(), F_OK), 0) << name;
}

}  // namespace
}  // namespace handover::test
