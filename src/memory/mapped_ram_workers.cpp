#include "memory/mapped_ram_workers.h"

#include <pthread.h>

#include "handover/base/trace.h"

namespace handover {
namespace {

/// Jobs that may wait for each thread; more would only hold pages up that a barrier must wait for.
constexpr std::size_t kRoomForEach = 4;

}  // namespace

MappedRamWorkers::MappedRamWorkers(std::size_t threads, CancelToken cancel)
    : room_(threads * kRoomForEach), cancel_(std::move(cancel)) {
  for (std::size_t i = 0; i < threads; ++i)
    threads_.emplace_back([this] {
      ::pthread_setname_np(::pthread_self(), "mapped-ram");
      HANDOVER_TRACE(thread_start, "mapped-ram");
      work();
      HANDOVER_TRACE(thread_end, "mapped-ram");
    });
}

MappedRamWorkers::~MappedRamWorkers() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    queue_.clear();
  }
  changed_.notify_all();
  for (auto& thread : threads_)
    thread.join();
}

Status MappedRamWorkers::outcome() const {
  if (failure_) return std::unexpected(*failure_);
  return cancel_.check();
}

Status MappedRamWorkers::submit(Job job) {
  if (threads_.empty()) {
    HANDOVER_TRY(outcome());
    auto done = job();
    if (!done) failure_ = done.error();
    return done;
  }
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, cancel_.stop(), [&] { return failure_ || queue_.size() < room_; });
    HANDOVER_TRY(outcome());
    queue_.push_back(std::move(job));
  }
  changed_.notify_all();
  return {};
}

Status MappedRamWorkers::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, cancel_.stop(), [&] { return failure_ || (queue_.empty() && busy_ == 0); });
  return outcome();
}

void MappedRamWorkers::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !queue_.empty(); });
    if (ending_) return;
    auto job = std::move(queue_.front());
    queue_.pop_front();
    ++busy_;
    lock.unlock();
    changed_.notify_all();
    auto done = job();
    lock.lock();
    --busy_;
    if (!done && !failure_) {
      failure_ = std::move(done).error();
      queue_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace handover
