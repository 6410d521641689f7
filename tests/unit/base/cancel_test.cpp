#include "handover/base/cancel.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "handover/base/unique_fd.h"

namespace handover {
namespace {

using std::chrono::steady_clock;

struct Pipe {
  Pipe() {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe");
    read.reset(ends[0]);
    write.reset(ends[1]);
  }
  void put() const { ASSERT_EQ(::write(write.get(), "x", 1), 1); }
  UniqueFd read;
  UniqueFd write;
};

TEST(CancelToken, MadeByDefaultIsNeverCancelled) {
  CancelToken token;
  EXPECT_FALSE(token.cancelled());
  EXPECT_TRUE(token.check());
  EXPECT_EQ(token.fd(), -1);
}

TEST(CancelToken, FailsWithTheFirstReason) {
  CancelSource source;
  auto token = source.token();
  EXPECT_TRUE(token.check());
  source.cancel("the user asked");
  source.cancel("too late");
  ASSERT_FALSE(token.check());
  EXPECT_EQ(token.check().error().code(), Errc::cancelled);
  EXPECT_EQ(token.check().error().to_string(), "the user asked");
}

TEST(CancelToken, OutlivesItsSource) {
  auto source = std::make_unique<CancelSource>();
  auto token = source->token();
  source->cancel("gone");
  source.reset();
  EXPECT_EQ(token.check().error().to_string(), "gone");
}

TEST(CancelToken, TheReasonDoesNotChangeWhenManyThreadsCancel) {
  for (int round = 0; round < 50; ++round) {
    CancelSource source;
    auto token = source.token();
    std::string seen[2];
    {
      std::jthread a([&] {
        source.cancel("a");
        seen[0] = token.check().error().to_string();
      });
      std::jthread b([&] {
        source.cancel("b");
        seen[1] = token.check().error().to_string();
      });
    }
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_EQ(token.check().error().to_string(), seen[0]);
  }
}

TEST(CancelToken, DescriptorIsReadableOnceCancelledAndStaysSo) {
  CancelSource source;
  pollfd poll_fd{source.token().fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&poll_fd, 1, 0), 0);
  source.cancel();
  EXPECT_EQ(::poll(&poll_fd, 1, 0), 1);
  EXPECT_EQ(::poll(&poll_fd, 1, 0), 1);
}

TEST(CancelToken, WakesAWaitOnACondition) {
  CancelSource source;
  std::mutex mutex;
  std::condition_variable_any condition;
  std::jthread canceller([&] { source.cancel(); });
  std::unique_lock lock(mutex);
  EXPECT_FALSE(condition.wait(lock, source.token().stop(), [] { return false; }));
}

TEST(WaitFd, ReturnsTheEventThatCame) {
  Pipe pipe;
  pipe.put();
  auto events = wait_fd(pipe.read.get(), POLLIN, {});
  ASSERT_TRUE(events);
  EXPECT_TRUE(*events & POLLIN);
}

TEST(WaitFd, ReturnsAHangUpThatNobodyAskedFor) {
  Pipe pipe;
  pipe.write.reset();
  auto events = wait_fd(pipe.read.get(), POLLIN, {});
  ASSERT_TRUE(events);
  EXPECT_TRUE(*events & POLLHUP);
}

TEST(WaitFd, FailsWithTimeoutAfterTheDeadline) {
  Pipe pipe;
  const auto deadline = steady_clock::now() + std::chrono::milliseconds(20);
  auto events = wait_fd(pipe.read.get(), POLLIN, {}, deadline);
  ASSERT_FALSE(events);
  EXPECT_EQ(events.error().code(), Errc::timeout);
  EXPECT_GE(steady_clock::now(), deadline);
}

TEST(WaitFd, ADeadlineThatHasPassedStillSeesWhatIsReady) {
  Pipe pipe;
  pipe.put();
  EXPECT_TRUE(wait_fd(pipe.read.get(), POLLIN, {}, steady_clock::now() - std::chrono::seconds(1)));
}

TEST(WaitFd, IsWokenByACancelFromAnotherThread) {
  Pipe pipe;
  CancelSource source;
  std::jthread canceller([&] { source.cancel("stop waiting"); });
  auto events = wait_fd(pipe.read.get(), POLLIN, source.token());
  ASSERT_FALSE(events);
  EXPECT_EQ(events.error().code(), Errc::cancelled);
  EXPECT_EQ(events.error().to_string(), "stop waiting");
}

// D2: after every wake-up the cancel is looked at first.
TEST(WaitFd, LooksAtTheCancelBeforeTheDescriptor) {
  Pipe pipe;
  pipe.put();
  CancelSource source;
  source.cancel();
  EXPECT_EQ(wait_fd(pipe.read.get(), POLLIN, source.token()).error().code(), Errc::cancelled);
}

}  // namespace
}  // namespace handover
