#include "handover/base/event_loop.h"

#include <pthread.h>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <atomic>

namespace handover {
namespace {

thread_local EventLoop* loop_of_this_thread = nullptr;
std::atomic<EventLoop*> main_loop{nullptr};

}  // namespace

struct EventLoop::Impl {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
};

EventLoop::EventLoop(std::string name) : name_(std::move(name)), impl_(std::make_unique<Impl>()) {
}

EventLoop::~EventLoop() {
  stop();
  if (thread_.joinable()) thread_.join();
  EventLoop* self = this;
  main_loop.compare_exchange_strong(self, nullptr);
}

asio::io_context& EventLoop::context() {
  return impl_->context;
}

void EventLoop::run() {
  auto* outer = std::exchange(loop_of_this_thread, this);
  impl_->context.run();
  loop_of_this_thread = outer;
}

void EventLoop::start_thread() {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), name_.substr(0, 15).c_str());
    run();
  });
}

void EventLoop::stop() {
  impl_->context.stop();
}

void EventLoop::post(std::function<void()> work) {
  asio::post(impl_->context, std::move(work));
}

bool EventLoop::in_loop() const {
  return loop_of_this_thread == this;
}

EventLoop* EventLoop::current() {
  return loop_of_this_thread ? loop_of_this_thread : main_loop.load(std::memory_order_acquire);
}

void EventLoop::make_main() {
  main_loop.store(this, std::memory_order_release);
}

}  // namespace handover
