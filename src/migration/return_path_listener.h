#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

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
  /// `sections`: ids below it exist.
  ReturnPathListener(Channel& channel, std::size_t sections);
  /// Shuts the channel down if the thread still reads, and joins it.
  ~ReturnPathListener();

  /// Fails once the destination has reported a failure, broken the protocol or gone away before its SHUT.
  Status check() const;
  /// Acknowledgements of initial device data so far.
  std::uint64_t acks() const;
  /// What the destination last said of a section; a `room` of 0: nothing yet.
  stream::ReplyMessage progress(std::uint32_t section) const;
  /// Waits until the destination has room for `bytes` more of a section's packets beside the `sent` ones.
  Status wait_for_room(std::uint32_t section, std::uint64_t sent, std::uint64_t bytes,
                       const CancelToken& cancel);
  Status wait_for_pong(std::uint32_t token, const CancelToken& cancel);
  /// The value of the SHUT message, or why there will be none.
  Result<std::uint32_t> wait_for_shut(std::chrono::milliseconds timeout, const CancelToken& cancel);

 private:
  void listen();
  Status read_message(stream::ReturnPathReader& in);

  Status check_locked() const;

  Channel& channel_;
  mutable std::mutex mutex_;  // leaf
  std::condition_variable_any changed_;
  std::set<std::uint32_t> pongs_;
  std::uint64_t acks_ = 0;
  std::vector<stream::ReplyMessage> progress_;  // by section
  std::optional<std::uint32_t> shut_;
  std::optional<Error> failure_;  // no more messages will come
  std::thread thread_;
};

}  // namespace handover
