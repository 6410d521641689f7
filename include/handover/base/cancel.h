#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>

#include "handover/base/result.h"

namespace handover {

/// Seen by everything that waits: a flag, a stop token for condition variables, a descriptor for poll().
///
/// Copies are cheap and may be used on any thread.  A default-made token is never cancelled.
class CancelToken {
 public:
  CancelToken() = default;

  bool cancelled() const { return stop().stop_requested(); }
  /// Fails with Errc::cancelled and the reason once cancelled.
  Status check() const;
  /// Becomes readable on cancel and stays so; -1 for a token that is never cancelled.
  int fd() const;
  std::stop_token stop() const;

 private:
  friend class CancelSource;
  struct State;
  explicit CancelToken(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

/// The one who may cancel.  cancel() may be called from any thread, any number of times; the first reason
/// wins.
class CancelSource {
 public:
  CancelSource();
  CancelToken token() const { return CancelToken(state_); }
  void cancel(std::string reason = "cancelled");
  bool cancelled() const { return token().cancelled(); }

 private:
  std::shared_ptr<CancelToken::State> state_;
};

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

/// Waits until `fd` has one of `events` (as in poll()), the token is cancelled, or the deadline passes.
/// Returns the events; fails with cancelled or timeout.
Result<short> wait_fd(int fd, short events, const CancelToken& token, Deadline deadline = {});

}  // namespace handover
