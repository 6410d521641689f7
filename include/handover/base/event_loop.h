#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "handover/base/result.h"

namespace asio {
class io_context;
}

namespace handover {

/// An Asio event loop and, if asked for, the thread that runs it.
///
/// The main loop is run by main(); I/O threads have one each.  Work posted to a loop runs on that
/// loop's thread, so what a loop owns needs no lock.
class EventLoop {
 public:
  explicit EventLoop(std::string name);
  /// Stops and joins the thread, if start_thread() made one.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  asio::io_context& context();
  const std::string& name() const { return name_; }

  /// Runs the loop on the calling thread until stop().
  void run();
  /// Runs the loop on a thread of its own, named after the loop.
  void start_thread();
  /// Any thread.  run() returns soon; what is still posted is dropped.
  void stop();

  /// Any thread: runs `work` later on the loop.
  void post(std::function<void()> work);
  /// Any thread: runs `work` on the loop and waits for its result; at once if already there.
  /// The loop must be running, and must not be waiting for the caller.
  template <class Work>
  auto call(Work work) -> decltype(work()) {
    if (in_loop()) return work();
    std::packaged_task<decltype(work())()> task(std::move(work));
    auto done = task.get_future();
    post([&task] { task(); });
    return done.get();
  }
  bool in_loop() const;

  /// The loop of an I/O thread when called on one, and the main loop on every other thread, also one
  /// that has no loop of its own (mission A10).  Null before the main loop was made.
  static EventLoop* current();
  /// Declares this loop the main loop.
  void make_main();

 private:
  struct Impl;
  std::string name_;
  std::unique_ptr<Impl> impl_;
  std::thread thread_;
};

}  // namespace handover
