#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "handover/base/cancel.h"
#include "handover/channel/channel.h"
#include "handover/stream/return_path.h"

namespace handover {

/// The source's ear: a thread that reads what the destination says, and lets the migration thread wait for
/// it.
///
/// The channel outlives it; shutting the channel down ends the thread.
class ReturnPathListener {
 public:
  explicit ReturnPathListener(Channel& channel);
  /// Shuts the channel down if the thread still reads, and joins it.
  ~ReturnPathListener();

  /// Fails once the destination has reported a failure, broken the protocol or gone away before its SHUT.
  Status check() const;
  Status wait_for_pong(std::uint32_t token, const CancelToken& cancel);
  /// The value of the SHUT message, or why there will be none.
  Result<std::uint32_t> wait_for_shut(std::chrono::milliseconds timeout, const CancelToken& cancel);

 private:
  void listen();
  Status read_message(stream::ReturnPathReader& in);

  Channel& channel_;
  mutable std::mutex mutex_;  // leaf
  std::condition_variable_any changed_;
  std::set<std::uint32_t> pongs_;
  std::optional<std::uint32_t> shut_;
  std::optional<Error> failure_;  // no more messages will come
  std::thread thread_;
};

}  // namespace handover
