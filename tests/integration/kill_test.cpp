// Kill -9 of any one process at a random moment of a migration: never two runners, and where the source
// survives and has not committed, its guest runs on with its checks green.

#include <csignal>
#include <map>

#include "integration/two_machines.h"

namespace handover::test {
namespace {

enum class Victim { source, destination, source_device, destination_device };
constexpr const char* kNames[] = {"the source", "the destination", "the source's device server",
                                  "the destination's device server"};

/// Sound and at work, or says what is wrong.
void expect_sound(Side& side, const std::string& when) {
  EXPECT_EQ(side.run_state(), "running") << when;
  side.expect_progress(when);
  EXPECT_EQ(side.guest().value("mismatches", std::uint64_t{99}), 0u) << when;
}

/// When the source's machine stopped for the last time and the destination's started, on the host's clock.
void expect_no_overlap(Side& source, Side& destination, const std::string& when) {
  std::int64_t stopped = 0;
  for (const auto& [name, at] : source.events()) {
    if (name == "STOP") stopped = at;
    if (name == "RESUME") stopped = 0;
  }
  for (const auto& [name, at] : destination.events())
    if (name == "RESUME") {
      EXPECT_NE(stopped, 0) << "the destination runs and the source never stopped, " << when;
      EXPECT_LE(stopped, at) << when;
    }
}

std::string one_round(std::mt19937_64& random, std::chrono::microseconds span) {
  TestFolder folder;
  SideOptions options;
  if (random() % 2 == 0) options.more.emplace_back("--viommu");
  Side source(folder, "source", options, false);
  Side destination(folder, "destination", options, true);
  source.expect_progress("before");

  const auto victim = static_cast<Victim>(random() % 4);
  const auto delay = std::chrono::microseconds(random() % static_cast<std::uint64_t>(span.count()));
  const auto when = fmt::format("{} killed after {} us", kNames[static_cast<int>(victim)], delay.count());
  EXPECT_TRUE(source.ask("migrate-set-parameters", {{"max-bandwidth", 0}, {"downtime-limit", 2000}}));
  EXPECT_TRUE(source.ask("migrate", {{"uri", destination.listening_on()}}));
  std::this_thread::sleep_for(delay);
  switch (victim) {
    case Victim::source:
      source.machine().signal(SIGKILL);
      break;
    case Victim::destination:
      destination.machine().signal(SIGKILL);
      break;
    case Victim::source_device:
      source.device(0).signal(SIGKILL);
      break;
    case Victim::destination_device:
      destination.device(0).signal(SIGKILL);
      break;
  }

  // A source that dies before it has connected leaves a destination that goes on waiting for one.
  const auto nobody_came = [&] { return !source.alive() && destination.migration_status() == "setup"; };
  wait_until("both ends to settle, " + when, [&] {
    return is_final_status(source.migration_status()) &&
           (is_final_status(destination.migration_status()) || nobody_came());
  });
  const auto outcome = source.migration_status();
  const auto source_state = source.run_state();
  // A destination whose load failed ends by itself; let it.
  if (outcome == "failed" || outcome == "gone")
    wait_until("the destination to take its decision, " + when, [&] {
      return destination.run_state() == "gone" || destination.run_state() == "running" || nobody_came();
    });
  const auto destination_state = destination.run_state();
  EXPECT_FALSE(source_state == "running" && destination_state == "running") << "two runners, " << when;
  if (outcome != "gone" && destination_state == "running") expect_no_overlap(source, destination, when);

  if (outcome == "failed") {
    EXPECT_NE(destination_state, "running") << when;
    expect_sound(source, when);
  } else if (outcome == "completed") {
    EXPECT_EQ(source_state, "postmigrate") << when;
    if (destination_state != "gone") expect_sound(destination, when);
  } else if (outcome == "in-doubt") {
    EXPECT_EQ(source_state, "postmigrate") << when;
    // The person looks at the other side before deciding.
    const bool resume = destination_state == "gone";
    EXPECT_TRUE(source.ask("x-handover-resolve", {{"resume", resume}})) << when;
    expect_sound(resume ? source : destination, when);
  } else if (outcome == "gone" && destination_state == "running") {
    expect_sound(destination, when);
  }
  return outcome;
}

TEST(Kill, AnyProcessAtAnyMomentLeavesOneRunnerAtMost) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const char* wanted = std::getenv("HANDOVER_KILL_ROUNDS");
  const int rounds = wanted ? std::atoi(wanted) : 30;

  // How long a migration takes here, so that the moments cover all of it and a little more.
  std::chrono::microseconds span{};
  {
    TestFolder folder;
    Side source(folder, "source", {}, false);
    Side destination(folder, "destination", {}, true);
    ASSERT_TRUE(source.ask("migrate-set-parameters", {{"max-bandwidth", 0}, {"downtime-limit", 2000}}));
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(source.ask("migrate", {{"uri", destination.listening_on()}}));
    wait_until("an undisturbed migration", [&] { return is_final_status(source.migration_status()); });
    ASSERT_EQ(source.migration_status(), "completed");
    span = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin) *
           6 / 5;
  }
  std::map<std::string, int> outcomes;
  for (int round = 0; round < rounds; ++round) {
    ++outcomes[one_round(random, span)];
    if (HasFailure()) FAIL() << "round " << round << " of seed " << seed;
  }
  fmt::print("{} rounds over {} us:", rounds, span.count());
  for (const auto& [outcome, count] : outcomes)
    fmt::print(" {} {}", count, outcome);
  fmt::print("\n");
}

}  // namespace
}  // namespace handover::test
