// Machines that move between real processes, by the commands that people type.

#include <gmock/gmock.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "integration/two_machines.h"

namespace handover::test {
namespace {

using testing::HasSubstr;

/// No limits that a slow machine could not keep: what is tested is that it arrives.
json quickly() {
  return {{"max-bandwidth", 0}, {"downtime-limit", 60000}};
}

/// Memory of a process beyond the guest's RAM, which is shared memory.
std::uint64_t own_memory_kib(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  std::uint64_t sum = 0;
  std::string word;
  while (status >> word) {
    std::uint64_t kib = 0;
    if ((word == "RssAnon:" || word == "RssFile:") && status >> kib) sum += kib;
  }
  return sum;
}

TEST(Move, AMachineWithTwoDevicesMovesAndEverythingIsVerified) {
  TestFolder folder;
  SideOptions options;
  options.devices = 2;
  Side source(folder, "source", options, false);
  Side destination(folder, "destination", options, true);
  source.expect_progress("before");
  ASSERT_TRUE(source.ask("migrate-set-parameters", quickly()));
  ASSERT_TRUE(source.ask("migrate", {{"uri", destination.listening_on()}}));
  wait_until("the migration", [&] { return is_final_status(source.migration_status()); });
  ASSERT_EQ(source.migration_status(), "completed")
      << folder.text("source.log") << folder.text("destination.log");
  EXPECT_EQ(source.run_state(), "postmigrate");
  EXPECT_EQ(destination.run_state(), "running");
  const auto arrived = destination.guest().at("jobs-completed").get<std::uint64_t>();
  wait_until("jobs on the destination",
             [&] { return destination.guest().at("jobs-completed").get<std::uint64_t>() > arrived + 50; });
  // The guest that was given up does nothing any more.
  const auto given_up = source.guest();
  auto verified = destination.ask("x-handover-verify");
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->at("devices"), 2);
  EXPECT_GT(verified->at("pages"), 1000);
  EXPECT_EQ(destination.guest().at("mismatches"), 0);
  EXPECT_EQ(destination.guest().at("interrupts-lost"), 0);
  EXPECT_EQ(source.guest().at("pages-written"), given_up.at("pages-written"));
  // Sanitizers have memory of their own, which is none of the product's.
  if (!HANDOVER_SANITIZED) {
    EXPECT_LT(own_memory_kib(source.machine().pid()), 64 * 1024);
    EXPECT_LT(own_memory_kib(destination.machine().pid()), 64 * 1024);
  }
}

TEST(Move, AMachineMovesThereAndBackAgain) {
  TestFolder folder;
  Side first(folder, "first", {}, false);
  first.expect_progress("before");
  std::vector<std::unique_ptr<Side>> hops;
  Side* from = &first;
  for (int hop = 0; hop < 3; ++hop) {
    hops.push_back(std::make_unique<Side>(folder, fmt::format("hop{}", hop), SideOptions{}, true));
    Side& to = *hops.back();
    ASSERT_TRUE(from->ask("migrate-set-parameters", quickly()));
    ASSERT_TRUE(from->ask("migrate", {{"uri", to.listening_on()}}));
    wait_until("the migration", [&] { return is_final_status(from->migration_status()); });
    ASSERT_EQ(from->migration_status(), "completed") << folder.text(fmt::format("hop{}.log", hop));
    to.expect_progress("after a hop");
    from = &to;
  }
  auto verified = from->ask("x-handover-verify");
  ASSERT_TRUE(verified) << verified.error().to_string();
}

struct Command {
  Command(TestFolder& folder, std::vector<std::string> arguments) : folder_(folder) {
    arguments.insert(
        arguments.begin(),
        {"/bin/sh", "-c", "exec \"$0\" \"$@\" >\"" + folder.file("stdout") + "\"", HANDOVER_BINARY});
    auto started =
        cli::ChildProcess::start(arguments, {.name = "handover", .stderr_path = folder.file("stderr")});
    if (!started) throw std::runtime_error(started.error().to_string());
    child = std::make_unique<cli::ChildProcess>(std::move(*started));
  }
  int wait() {
    auto code = child->wait({}, patience());
    return code ? *code : -1;
  }
  std::string out() const { return folder_.text("stdout"); }
  std::string err() const { return folder_.text("stderr"); }

  std::unique_ptr<cli::ChildProcess> child;

 private:
  TestFolder& folder_;
};

TEST(Move, TheMigrateCommandTellsHowItGoesInPlainLines) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  Side destination(folder, "destination", {}, true);
  Command migrate(folder, {"migrate", "--qmp", folder.file("source.qmp"), destination.listening_on(),
                           "--max-bandwidth", "0", "--downtime-limit", "60000"});
  EXPECT_EQ(migrate.wait(), 0) << migrate.err();
  EXPECT_THAT(migrate.out(), HasSubstr("downtime"));
  EXPECT_THAT(migrate.out(), testing::Not(HasSubstr("\r")));
  destination.expect_progress("after the command");
}

TEST(Move, AnInterruptCancelsAndSaysWhoRuns) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  Side destination(folder, "destination", {}, true);
  // So slow that it cannot end before the interrupt.
  Command migrate(folder, {"migrate", "--qmp", folder.file("source.qmp"), destination.listening_on(),
                           "--max-bandwidth", "64K"});
  wait_until("the migration to begin", [&] { return source.migration_status() == "active"; });
  migrate.child->signal(SIGINT);
  EXPECT_EQ(migrate.wait(), 1);
  EXPECT_THAT(migrate.out() + migrate.err(), HasSubstr("still runs"));
  EXPECT_EQ(source.migration_status(), "cancelled");
  EXPECT_EQ(source.run_state(), "running");
  source.expect_progress("after the cancel");
  EXPECT_EQ(source.guest().at("mismatches"), 0);
}

TEST(Move, AStreamInAFileIsDescribedToTheLastField) {
  TestFolder folder;
  Side source(folder, "source", {}, false);
  source.expect_progress("before");
  Command save(folder, {"migrate", "--qmp", folder.file("source.qmp"), "file:" + folder.file("saved.mig"),
                        "--max-bandwidth", "0"});
  ASSERT_EQ(save.wait(), 0) << save.err();
  Command inspect(folder, {"inspect", "--json", folder.file("saved.mig")});
  ASSERT_EQ(inspect.wait(), 0) << inspect.err();
  const auto facts = json::parse(inspect.out());
  std::vector<std::string> names;
  for (const auto& section : facts.at("sections"))
    names.push_back(section.at("name"));
  for (const auto* name : {"ram", "synthetic-vcpu", "0000:00:01.0/vfio", "globalstate"})
    EXPECT_THAT(names, testing::Contains(name));
  EXPECT_EQ(facts.at("ram_total_bytes"), 64u << 20);

  // The saved machine comes to life in a new process, with a fresh device.
  SideOptions options;
  options.more.insert(options.more.end(), {"--incoming", "file:" + folder.file("saved.mig")});
  Side restored(folder, "restored", options, false);
  wait_until("the restored machine", [&] { return restored.run_state() == "running"; });
  auto verified = restored.ask("x-handover-verify");
  ASSERT_TRUE(verified) << verified.error().to_string();
}

TEST(Move, ATruncatedFileIsRefusedWithItsPlace) {
  TestFolder folder;
  Side source(folder, "source", {.devices = 0}, false);
  Command save(folder, {"migrate", "--qmp", folder.file("source.qmp"), "file:" + folder.file("saved.mig"),
                        "--max-bandwidth", "0"});
  ASSERT_EQ(save.wait(), 0) << save.err();
  ASSERT_EQ(::truncate(folder.file("saved.mig").c_str(), 1 << 20), 0);
  Command inspect(folder, {"inspect", folder.file("saved.mig")});
  EXPECT_EQ(inspect.wait(), 1);
  EXPECT_THAT(inspect.err(), HasSubstr("offset"));
  EXPECT_THAT(inspect.err(), HasSubstr("ram"));
}

}  // namespace
}  // namespace handover::test
