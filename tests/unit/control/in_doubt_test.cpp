// What a person sees and may do when the mark was sent and no answer came.

#include <gmock/gmock.h>
#include <poll.h>

#include <thread>

#include "unit/control/controlled_machine.h"

namespace handover::control {
namespace {

using testing::HasSubstr;

/// Stands between both sides and cuts them apart around the commit.
class Relay {
 public:
  // The answers before the commit: PONG to the first PING, PONG to the one that asks whether all is loaded;
  // 2 + 2 + 4 bytes each.
  static constexpr std::size_t kAnswersBeforeCommit = 16;
  enum class Cut { mark_is_lost, answer_is_lost };

  Relay(const std::string& near, const std::string& far, Cut cut)
      : listener_(std::move(*SocketPath::listen(near))), thread_([this, far, cut] { run(far, cut); }) {}
  ~Relay() { thread_.join(); }

 private:
  void run(const std::string& far, Cut cut) {
    const auto own = listener_.duplicate();
    ASSERT_TRUE(wait_fd(own.get(), POLLIN, {}));
    UniqueFd source(::accept(own.get(), nullptr, nullptr));
    RawClient destination(far);
    std::size_t answered = 0;
    while (true) {
      pollfd both[2] = {{source.get(), POLLIN, 0}, {destination.fd(), POLLIN, 0}};
      ASSERT_GT(::poll(both, 2, 60'000), 0);
      char bytes[4096];
      if (both[1].revents) {
        const auto count = ::recv(destination.fd(), bytes, 8, 0);
        if (count <= 0) return;
        if (answered >= kAnswersBeforeCommit) return;
        ASSERT_EQ(::send(source.get(), bytes, static_cast<std::size_t>(count), MSG_NOSIGNAL), count);
        answered += static_cast<std::size_t>(count);
      }
      if (both[0].revents) {
        const auto count = ::recv(source.get(), bytes, sizeof bytes, 0);
        const bool loaded = answered == kAnswersBeforeCommit;
        if (loaded && cut == Cut::mark_is_lost) return;
        if (count > 0)
          destination.send({bytes, static_cast<std::size_t>(count)});
        else
          destination.end();
        if (count <= 0) {
          // Nothing more comes from the source; what the destination says now is lost.
          while (::recv(destination.fd(), bytes, sizeof bytes, 0) > 0) {
          }
          return;
        }
      }
    }
  }

  SocketPath listener_;
  std::thread thread_;
};

class InDoubtTest : public testing::Test {
 protected:
  void break_at(Relay::Cut cut) {
    source_.must("cont");
    destination_.must("migrate-incoming", {{"uri", "unix:" + scratch_.file("far")}});
    Relay relay(scratch_.file("near"), scratch_.file("far"), cut);
    source_.must("migrate", {{"uri", "unix:" + scratch_.file("near")}});
    source_.wait_for("in-doubt");
  }

  ScratchDirectory scratch_;
  ControlledMachine source_{scratch_.file("source.qmp"), {}};
  ControlledMachine destination_{scratch_.file("destination.qmp"), {.initial = RunState::inmigrate}};
};

TEST_F(InDoubtTest, NothingButAPersonsWordMovesTheMachine) {
  break_at(Relay::Cut::answer_is_lost);
  EXPECT_THAT(source_.refused("cont"), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("stop"), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("quit"), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("migrate", {{"uri", "unix:/x"}}), HasSubstr("doubt"));
  EXPECT_THAT(source_.refused("migrate_cancel"), HasSubstr("resolve"));
  EXPECT_FALSE(source_.ask("query-migrate").value("error-desc", "").empty());
  EXPECT_NE(source_.run_state(), "running");

  destination_.wait_for("completed");
  EXPECT_EQ(destination_.run_state(), "running");
  source_.must("x-handover-resolve", {{"resume", false}});
  EXPECT_EQ(source_.run_state(), "postmigrate");
  EXPECT_EQ(source_.migration_status(), "completed");
  EXPECT_THAT(source_.refused("cont"), HasSubstr("given up"));
  source_.must("quit");
}

TEST_F(InDoubtTest, AMachineThatNeverArrivedIsResumed) {
  break_at(Relay::Cut::mark_is_lost);
  destination_.wait_for("failed");
  EXPECT_EQ(destination_.run_state(), "inmigrate");
  source_.must("x-handover-resolve", {{"resume", true}});
  EXPECT_EQ(source_.run_state(), "running");
  EXPECT_THAT(source_.refused("x-handover-resolve", {{"resume", true}}), HasSubstr("nothing to resolve"));
}

}  // namespace
}  // namespace handover::control
