#include "handover/base/event_loop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <vector>

namespace handover {
namespace {

EventLoop* current_of_a_thread_without_a_loop() {
  EventLoop* seen = nullptr;
  std::thread([&] { seen = EventLoop::current(); }).join();
  return seen;
}

// A10: the loop of an I/O thread on that thread, the main loop on every other.
TEST(EventLoop, CurrentIsTheThreadsOwnLoopAndElseTheMainLoop) {
  EventLoop main("main");
  EventLoop io("io");
  io.start_thread();
  EXPECT_EQ(io.call([] { return EventLoop::current(); }), &io) << "also while there is no main loop";
  main.make_main();

  EXPECT_EQ(io.call([] { return EventLoop::current(); }), &io);
  EXPECT_EQ(EventLoop::current(), &main) << "although nothing runs the main loop yet";
  EXPECT_EQ(current_of_a_thread_without_a_loop(), &main);

  main.post([&] {
    EXPECT_EQ(EventLoop::current(), &main);
    main.stop();
  });
  main.run();
}

TEST(EventLoop, CurrentIsNullBeforeThereIsAMainLoopAndAfterItsEnd) {
  EXPECT_EQ(EventLoop::current(), nullptr);
  {
    EventLoop main("main");
    main.make_main();
    EXPECT_EQ(EventLoop::current(), &main);
  }
  EXPECT_EQ(EventLoop::current(), nullptr);
}

TEST(EventLoop, TheEndOfAnotherLoopLeavesTheMainLoopInPlace) {
  EventLoop main("main");
  main.make_main();
  {
    EventLoop other("other");
  }
  EXPECT_EQ(EventLoop::current(), &main);
}

TEST(EventLoop, ALoopRunInsideAnotherGivesTheOuterOneBack) {
  EventLoop outer("outer");
  EventLoop inner("inner");
  outer.post([&] {
    inner.post([&] {
      EXPECT_EQ(EventLoop::current(), &inner);
      EXPECT_FALSE(outer.in_loop());
      inner.stop();
    });
    inner.run();
    EXPECT_EQ(EventLoop::current(), &outer);
    outer.stop();
  });
  outer.run();
}

TEST(EventLoop, PostedWorkRunsOnTheLoopInOrder) {
  EventLoop loop("io");
  std::vector<int> order;  // touched on the loop only
  for (int i = 0; i < 100; ++i)
    loop.post([&order, i] { order.push_back(i); });
  EXPECT_FALSE(loop.in_loop());
  loop.start_thread();
  auto seen = loop.call([&] {
    EXPECT_TRUE(loop.in_loop());
    return order;
  });
  ASSERT_EQ(seen.size(), 100u);
  EXPECT_TRUE(std::ranges::is_sorted(seen));
}

TEST(EventLoop, CallFromTheLoopItselfRunsAtOnce) {
  EventLoop loop("io");
  loop.start_thread();
  EXPECT_EQ(loop.call([&] { return loop.call([] { return 42; }); }), 42);
}

TEST(EventLoop, CallHandsAnExceptionToTheCaller) {
  EventLoop loop("io");
  loop.start_thread();
  EXPECT_THROW(loop.call([] { throw std::runtime_error("x"); }), std::runtime_error);
  EXPECT_EQ(loop.call([] { return 1; }), 1) << "and the loop goes on";
}

TEST(EventLoop, StopBeforeTheThreadRunsIsNotLost) {
  EventLoop loop("io");
  loop.stop();
  loop.start_thread();  // the destructor joins: the test hangs if the stop was lost
}

TEST(EventLoop, IsDestroyedWithWorkStillPosted) {
  auto token = std::make_shared<int>(1);
  std::weak_ptr<int> weak = token;
  {
    EventLoop loop("never run");
    loop.post([token = std::move(token)] {});
  }
  EXPECT_TRUE(weak.expired());
}

}  // namespace
}  // namespace handover
