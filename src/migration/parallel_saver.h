#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/stream/migratable.h"
#include "migration/multifd_sender.h"
#include "migration/return_path_listener.h"

namespace handover {

/// Saves the parallel state of several items at once, each on a thread of its own, over the multifd channels.
///
/// No item waits for another.  The first that fails cancels the rest, and its failure names it.
class ParallelSaver {
 public:
  ParallelSaver(MultifdSender& channels, ReturnPathListener& answers, const CancelToken& cancel);
  /// Cancels what is under way and joins the threads.
  ~ParallelSaver();

  void start(Migratable& item, std::uint32_t section_id);
  /// Waits for all of them.
  Status wait();
  /// Bytes of packets that each item sent, in the order of start().  After wait().
  const std::vector<std::uint64_t>& sent() const { return sent_; }

 private:
  void run(Migratable& item, std::uint32_t section_id, std::size_t index);

  MultifdSender& channels_;
  ReturnPathListener& answers_;
  CancelSource cancel_;  // ours, or the migration's
  std::stop_callback<std::function<void()>> passes_on_;
  std::mutex mutex_;  // a leaf
  std::optional<Error> failure_;
  std::vector<std::uint64_t> sent_;
  std::vector<std::thread> threads_;
};

}  // namespace handover
