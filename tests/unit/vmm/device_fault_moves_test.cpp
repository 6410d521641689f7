// Migrations in which one call to one device fails: every change of state, and of the other calls the first,
// the last and some between; at the source and at the destination, over one channel and over several.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/memory/random_seed.h"
#include "unit/vmm/device_fault_rig.h"

namespace handover::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::size_t kDevices = 2;

enum class Side { source, destination };

struct Round {
  Side side;
  Call call;
  std::uint64_t n;
  Fault fault;
  bool multifd;
};
std::ostream& operator<<(std::ostream& out, const Round& round) {
  return out << to_string(round.call) << " number " << round.n << " at the "
             << (round.side == Side::source ? "source" : "destination") << ": " << to_string(round.fault)
             << (round.multifd ? ", multifd" : "");
}

/// Plays rounds one after the other, with the machine that the one before left whole.
class DeviceFaultMoves : public testing::Test {
 protected:
  void SetUp() override {
    // What a process makes once and keeps is there after the first migration.
    clean(true);
    source_.reset();
    before_ = Holdings();
  }
  void TearDown() override {
    source_.reset();
    EXPECT_TRUE(FaultyVm::wait_for([&] { return Holdings() == before_; }))
        << "descriptors or threads are left";
    std::cout << rounds_ << " rounds: " << completed_ << " completed, " << failed_ << " failed, " << in_doubt_
              << " in doubt; " << retried_ << " tried again; " << unreached_ << " without their call; "
              << fresh_ << " machines made anew\n";
    EXPECT_LE(runners_->most, 1) << "machines ran at the same time";
  }

  FaultyVm& source() {
    if (!source_) {
      ++fresh_;
      source_ = FaultyVm::make(kDevices, false, runners_);
      if (auto started = source_->start(); !started) ADD_FAILURE() << started.error().to_string();
      EXPECT_TRUE(source_->do_jobs(50));
    }
    return *source_;
  }

  /// Every kind of call, with how often it comes.
  using Counts = std::array<std::uint64_t, kCallNames.size()>;
  static Counts counts(const FaultyVm& machine) {
    Counts counts;
    for (std::size_t i = 0; i < counts.size(); ++i)
      counts[i] = machine.plan->count(static_cast<Call>(i));
    return counts;
  }
  /// A migration in which nothing fails.
  std::pair<Counts, Counts> clean(bool multifd) {
    auto destination = FaultyVm::make(kDevices, true, runners_);
    source().calm();
    destination->calm();
    {
      FaultyMove move(*source_, *destination, multifd);
      move.wait();
      EXPECT_EQ(move.outgoing.status(), MigrationStatus::completed) << move.outgoing.statistics().error;
    }
    const std::pair all{counts(*source_), counts(*destination)};
    destination->expect_whole();
    source_ = std::move(destination);
    return all;
  }

  void play(const Round& round) {
    SCOPED_TRACE(testing::Message() << round);
    ++rounds_;
    auto& from = source();
    auto to = FaultyVm::make(kDevices, true, runners_);
    resets_before_ = from.resets();
    auto& victim = round.side == Side::source ? from : *to;
    victim.plan->arm(round.call, round.n, round.fault);
    std::string hit;
    {
      FaultyMove move(from, *to, round.multifd);
      move.wait();
      hit = victim.plan->hit();
      from.calm();
      to->calm();
      if (hit.empty()) ++unreached_;
      judge(round, hit, from, *to, move);
    }
    if (to->state() == RunState::running)
      source_ = std::move(to);
    else if (from.state() != RunState::running || from.resets() > resets_before_)
      source_.reset();
    else if (to->state() == RunState::inmigrate && rounds_ % 4 == 0)
      try_again(std::move(to), round.multifd);
    // One complaint is enough: what follows begins with another machine.
    const auto complaints =
        testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count();
    if (std::exchange(complaints_, complaints) != complaints) source_.reset();
  }

  void judge(const Round& round, const std::string& hit, FaultyVm& from, FaultyVm& to, FaultyMove& move) {
    const auto outcome = move.outgoing.status();
    if (outcome == MigrationStatus::completed) {
      ++completed_;
      EXPECT_EQ(move.incoming.status(), MigrationStatus::completed) << move.incoming.error();
      EXPECT_EQ(from.state(), RunState::postmigrate);
      return to.expect_whole();
    }
    ASSERT_NE(hit, "") << move.outgoing.statistics().error << "; " << move.incoming.error();
    EXPECT_EQ(move.incoming.status(), MigrationStatus::failed);
    EXPECT_NE(to.state(), RunState::running);
    const auto said = round.side == Side::source ? move.outgoing.statistics().error : move.incoming.error();
    EXPECT_THAT(said, HasSubstr(hit));
    judge_destination(round, hit, to, outcome);
    if (outcome == MigrationStatus::in_doubt) {
      // It is a destination that did not start.  Whoever knows that lets the source run on.
      ++in_doubt_;
      EXPECT_EQ(round.side, Side::destination);
      EXPECT_EQ(from.state(), RunState::postmigrate);
      const auto resolved = move.outgoing.resolve(true);
      EXPECT_TRUE(resolved) << resolved.error().to_string();
      EXPECT_FALSE(to.start()) << "what was given back must not run";
      return from.expect_whole();
    }
    ++failed_;
    EXPECT_EQ(outcome, MigrationStatus::failed);
    judge_source(round, hit, from);
  }

  static void judge_destination(const Round& round, const std::string& hit, FaultyVm& to,
                                MigrationStatus outcome) {
    const bool dead = round.side == Side::destination && round.fault == Fault::dead;
    if (dead || outcome == MigrationStatus::in_doubt) {
      EXPECT_EQ(to.state(), RunState::internal_error);
      EXPECT_THAT(to.machine().trouble(), HasSubstr(hit));
    } else {
      EXPECT_EQ(to.state(), RunState::inmigrate) << to.machine().trouble();
    }
    if (!dead) to.expect_devices_settled();
  }

  void judge_source(const Round& round, const std::string& hit, FaultyVm& from) {
    if (round.side == Side::source && round.fault == Fault::dead) {
      EXPECT_EQ(from.state(), RunState::internal_error);
      EXPECT_THAT(from.machine().trouble(), AllOf(HasSubstr(hit), HasSubstr("dead")));
      return;
    }
    if (from.resets() == resets_before_) return from.expect_whole();
    // The device has lost what it held; the machine runs on and the guest finds out.
    EXPECT_TRUE(round.fault == Fault::error || round.fault == Fault::stuck);
    const auto steps = from.vm->guest().steps;
    EXPECT_TRUE(FaultyVm::wait_for(
        [&] { return from.vm->guest().steps > steps || !from.vm->guest().panic.empty(); }));
    EXPECT_TRUE(from.state() == RunState::running || !from.vm->guest().panic.empty())
        << from.machine().trouble();
    from.expect_devices_settled();
  }

  /// What a failed migration leaves on either side is good for the next.
  void try_again(std::unique_ptr<FaultyVm> to, bool multifd) {
    ++retried_;
    {
      FaultyMove move(*source_, *to, multifd);
      move.wait();
      ASSERT_EQ(move.outgoing.status(), MigrationStatus::completed)
          << move.outgoing.statistics().error << "; " << move.incoming.error();
    }
    to->expect_whole();
    source_ = std::move(to);
  }

  std::shared_ptr<Runners> runners_ = std::make_shared<Runners>();
  std::unique_ptr<FaultyVm> source_;
  Holdings before_;
  std::uint64_t resets_before_ = 0;
  int complaints_ = 0;
  int rounds_ = 0, completed_ = 0, failed_ = 0, in_doubt_ = 0, retried_ = 0, unreached_ = 0, fresh_ = 0;
};

constexpr std::pair<Side, const char*> kSides[] = {{Side::source, "source"},
                                                   {Side::destination, "destination"}};

TEST_F(DeviceFaultMoves, AtEveryChangeOfStateOneSideRunsOn) {
  for (const bool multifd : {false, true}) {
    const auto [at_source, at_destination] = clean(multifd);
    for (const auto& [side, name] : kSides) {
      const auto count =
          (side == Side::source ? at_source : at_destination)[static_cast<std::size_t>(Call::set_state)];
      std::cout << count << " changes of state at the " << name << (multifd ? ", multifd" : "") << "\n";
      EXPECT_EQ(count, 4 * kDevices);
      for (std::uint64_t n = 1; n <= count; ++n)
        for (const auto fault :
             {Fault::refused, Fault::done, Fault::mute, Fault::stuck, Fault::error, Fault::dead}) {
          // Sanitizers make everything slow: every place, and not every kind of failure at each.
          if (kSanitized && (n + static_cast<std::uint64_t>(fault)) % 3 != 0) continue;
          play({side, Call::set_state, n, fault, multifd});
        }
    }
  }
}

TEST_F(DeviceFaultMoves, WhateverOtherCallFailsOneSideRunsOn) {
  std::mt19937_64 random(random_seed());
  for (const bool multifd : {false, true}) {
    const auto [at_source, at_destination] = clean(multifd);
    for (const auto& [side, name] : kSides) {
      const auto& counts = side == Side::source ? at_source : at_destination;
      for (std::size_t i = 0; i < counts.size(); ++i) {
        const auto call = static_cast<Call>(i);
        const auto count = counts[i];
        if (count == 0 || call == Call::set_state) continue;
        std::set<std::uint64_t> places{1, count, 1 + random() % count};
        if (kSanitized) places = {1 + random() % count};
        std::cout << count << " times " << to_string(call) << " at the " << name
                  << (multifd ? ", multifd" : "") << "; fails at";
        for (const auto n : places)
          std::cout << " " << n;
        std::cout << "\n";
        for (const auto n : places)
          for (const auto fault : {Fault::refused, Fault::done, Fault::error, Fault::dead})
            // A mapping that is there and was refused is a broken device's: nobody can know of it.
            if (fault != Fault::done || (n == 1 && call != Call::dma_map))
              play({side, call, n, fault, multifd});
      }
    }
  }
}

}  // namespace
}  // namespace handover::test
