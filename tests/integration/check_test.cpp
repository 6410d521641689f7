// `handover check` as people and build servers run it, on `handover serve` in a process of its own.

#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "integration/two_machines.h"
#include "support/run_binary.h"

namespace handover::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class Served {
 public:
  explicit Served(TestFolder& folder) : socket(folder.file("device.sock")), process(start(folder, socket)) {
    EXPECT_TRUE(process.read_line({}, patience()));
  }
  std::string target() const { return "vfio-user:" + socket; }

  std::string socket;
  cli::ChildProcess process;

 private:
  static cli::ChildProcess start(TestFolder& folder, const std::string& socket) {
    return std::move(*cli::ChildProcess::start(
        {HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent", "--socket", socket, "--memory", "4M"},
        {.name = "server", .stderr_path = folder.file("server.log")}));
  }
};

std::string file_text(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Check, OurOwnServerIsGreenInEverything) {
  TestFolder folder;
  Served served(folder);
  const auto ran =
      run_handover("check " + served.target() + " --exclusive --json - --junit " + folder.file("device.xml"));
  EXPECT_EQ(ran.exit_code, 0) << ran.out << ran.err;
  EXPECT_EQ(ran.err, "") << "no progress line where nobody looks";
  const auto report = json::parse(ran.out);
  EXPECT_EQ(report["green"], true);
  EXPECT_EQ(report["summary"]["failed"], 0);
  EXPECT_EQ(report["summary"]["warned"], 0);
  EXPECT_EQ(report["migration-features"], 7);
  EXPECT_THAT(report["device-state"].get<std::string>(), StartsWith("restored"));
  for (const auto& check : report["checks"]) {
    const auto id = check["id"].get<std::string>();
    const std::string wanted = id.ends_with(".lacking") ? "not-offered"
                               : id == "log.content"    ? "not-run"
                                                        : "passed";
    EXPECT_EQ(check["result"], wanted) << check.dump();
  }
  const auto xml = file_text(folder.file("device.xml"));
  EXPECT_THAT(xml, StartsWith("<?xml"));
  EXPECT_THAT(xml, HasSubstr(fmt::format("tests=\"{}\" failures=\"0\"", report["checks"].size())));
  EXPECT_TRUE(served.process.alive());
}

TEST(Check, TheDeviceCanBeCheckedAgainAndAgainAndIsLeftAsItWas) {
  TestFolder folder;
  Served served(folder);
  for (const char* more : {"", " --exclusive", ""}) {
    const auto ran = run_handover("check " + served.target() + more);
    EXPECT_EQ(ran.exit_code, 0) << ran.out << ran.err;
    EXPECT_THAT(ran.out, HasSubstr(*more ? "state of the device: restored" : "state of the device: kept"));
    EXPECT_THAT(ran.out, HasSubstr(" 0 failed"));
  }
  // Nobody before left it in a state that the next client has to mend.
  EXPECT_EQ(folder.text("server.log").find("error"), std::string::npos) << folder.text("server.log");
}

TEST(Check, OnlyRunsWhatIsNamed) {
  TestFolder folder;
  Served served(folder);
  const auto ran = run_handover("check " + served.target() + " --only arc.running stream.end --json -");
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  const auto report = json::parse(ran.out);
  EXPECT_EQ(report["checks"].size(), 7u);
  EXPECT_EQ(report["checks"].back()["id"], "stream.end");
}

TEST(Check, ListNeedsNoDevice) {
  const auto ran = run_handover("check --list");
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("| `arc.running.stop` | running to stop in one request | VFIO uAPI"));
}

TEST(Check, UsageErrorsEndWithTwo) {
  const std::pair<const char*, const char*> cases[] = {
      {"check", "TARGET is required"},
      {"check /run/x.sock", "vfio-user:/path/of/the.sock"},
      {"check pci:0000:01:00.0", "`pci` is no kind of device; write vfio-user:"},
      {"check vfio-user:", "does not say where the device is"},
      {"check vfio-user:/x --only fly", "there is no check `fly`"},
      {"check vfio-user:/x --json - --junit -", "cannot both go to standard output"},
      {"check vfio-user:/x --timeout 0", "--timeout"},
      {"check vfio-user:/x --max-state 1", "--max-state"},
  };
  for (const auto& [arguments, part] : cases) {
    const auto ran = run_handover(arguments);
    EXPECT_EQ(ran.exit_code, 2) << arguments << "\n" << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(part)) << arguments;
    EXPECT_EQ(ran.out, "") << arguments;
  }
}

TEST(Check, WhatCannotBeDoneIsOneLineAndExitCodeOne) {
  TestFolder folder;
  const auto nobody = run_handover("check vfio-user:" + folder.file("nobody.sock"));
  EXPECT_EQ(nobody.exit_code, 1);
  EXPECT_THAT(nobody.err, HasSubstr("nobody.sock"));
  Served served(folder);
  const auto ran =
      run_handover("check " + served.target() + " --only same --json " + folder.file("no/x.json"));
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, HasSubstr("cannot write the report to"));
}

TEST(Check, AServerThatDoesNotAnswerIsGivenUp) {
  TestFolder folder;
  Served served(folder);
  served.process.signal(SIGSTOP);
  const auto ran = run_handover("check " + served.target() + " --timeout 1");
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, HasSubstr("no answer to VERSION within 1000 ms"));
  served.process.signal(SIGCONT);
}

TEST(Check, CtrlCEndsItWhileItWaits) {
  TestFolder folder;
  const auto path = folder.file("silent.sock");
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)),
                   sizeof address),
            0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  auto check = cli::ChildProcess::start({HANDOVER_BINARY, "check", "vfio-user:" + path},
                                        {.name = "check", .stderr_path = folder.file("stderr")});
  ASSERT_TRUE(check);
  const UniqueFd client(::accept(listener.get(), nullptr, nullptr));
  // It has connected, so it watches for Ctrl-C.
  check->signal(SIGINT);
  const auto code = check->wait({}, patience());
  ASSERT_TRUE(code);
  EXPECT_EQ(*code, 1);
  EXPECT_THAT(folder.text("stderr"), HasSubstr("interrupted"));
}

}  // namespace
}  // namespace handover::test
