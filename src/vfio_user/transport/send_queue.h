#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::vfio_user {

/// Messages on their way into a socket that may be full.  One thread at a time; never blocks.
class SendQueue {
 public:
  void push(std::vector<std::byte> message, std::vector<UniqueFd> fds = {});
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
    std::size_t sent = 0;
  };
  std::deque<Item> waiting_;
  std::size_t bytes_ = 0;
};

}  // namespace handover::vfio_user
