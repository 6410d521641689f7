#pragma once

#include <cstddef>
#include <deque>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "vfio_user/transport/payload.h"

namespace handover::vfio_user {

/// Messages on their way into a socket that may be full.  One thread at a time; never blocks.
class SendQueue {
 public:
  void push(std::vector<std::byte> message, std::vector<UniqueFd> fds = {});
  /// The message goes on with bytes that the queue keeps.
  void push(std::vector<std::byte> message, std::vector<UniqueFd> fds, Payload tail);
  /// The message goes on with bytes of somebody else's, who calls let_go() before they end.
  void push(std::vector<std::byte> message, std::vector<UniqueFd> fds, std::span<const std::byte> tail);
  /// What is still to be sent of these bytes is copied.
  void let_go(std::span<const std::byte> tail);
  /// Sends what the socket takes; true once nothing is left.  Descriptors go with the first byte of
  /// their message.
  Result<bool> flush(int socket);
  bool empty() const { return waiting_.empty(); }
  /// Bytes not sent yet.
  std::size_t bytes() const { return bytes_; }
  void clear();

 private:
  struct Item {
    std::vector<std::byte> bytes;
    std::vector<UniqueFd> fds;
    Payload kept;
    std::span<const std::byte> tail;  // in `kept`, or not ours
    std::size_t sent = 0;
    std::size_t size() const { return bytes.size() + tail.size(); }
  };
  std::deque<Item> waiting_;
  std::size_t bytes_ = 0;
};

}  // namespace handover::vfio_user
