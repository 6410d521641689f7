#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/result.h"

namespace handover {

/// Threads that move pages between memory and a file, a run each at a time.  With none of them the caller
/// does it himself.
///
/// One thread submits and drains.  The first failure stays: it is what every later call returns, and jobs
/// that wait then are dropped.
class MappedRamWorkers {
 public:
  using Job = std::function<Status()>;

  MappedRamWorkers(std::size_t threads, CancelToken cancel);
  /// Drops what has not begun and joins.
  ~MappedRamWorkers();
  MappedRamWorkers(const MappedRamWorkers&) = delete;
  MappedRamWorkers& operator=(const MappedRamWorkers&) = delete;

  /// Waits for room in the queue.
  Status submit(Job job);
  /// Waits until everything that was submitted is done.
  Status drain();

 private:
  void work();
  Status outcome() const;

  const std::size_t room_;
  const CancelToken cancel_;
  std::mutex mutex_;  // a leaf; guards what follows
  std::condition_variable_any changed_;
  std::deque<Job> queue_;
  std::size_t busy_ = 0;
  bool ending_ = false;
  std::optional<Error> failure_;
  std::vector<std::thread> threads_;
};

}  // namespace handover
