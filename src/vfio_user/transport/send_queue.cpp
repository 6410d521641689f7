#include "vfio_user/transport/send_queue.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "handover/vfio_user/protocol.h"

namespace handover::vfio_user {

void SendQueue::push(std::vector<std::byte> message, std::vector<UniqueFd> fds) {
  push(std::move(message), std::move(fds), std::span<const std::byte>());
}

void SendQueue::push(std::vector<std::byte> message, std::vector<UniqueFd> fds, Payload tail) {
  push(std::move(message), std::move(fds), std::span<const std::byte>(tail));
  waiting_.back().kept = std::move(tail);
}

void SendQueue::push(std::vector<std::byte> message, std::vector<UniqueFd> fds,
                     std::span<const std::byte> tail) {
  bytes_ += message.size() + tail.size();
  waiting_.push_back({std::move(message), std::move(fds), {}, tail, 0});
}

void SendQueue::let_go(std::span<const std::byte> tail) {
  if (tail.empty()) return;
  for (auto& item : waiting_) {
    if (item.tail.data() != tail.data()) continue;
    item.kept = Payload(tail.size());
    std::ranges::copy(tail, item.kept.begin());
    item.tail = item.kept;
  }
}

void SendQueue::clear() {
  waiting_.clear();
  bytes_ = 0;
}

Result<bool> SendQueue::flush(int socket) {
  while (!waiting_.empty()) {
    auto& item = waiting_.front();
    const auto head_sent = std::min(item.sent, item.bytes.size()), tail_sent = item.sent - head_sent;
    // sendmsg() takes what it only reads as if it could write it.
    iovec parts[] = {{item.bytes.data() + head_sent, item.bytes.size() - head_sent},
                     {const_cast<std::byte*>(item.tail.data()) + tail_sent, item.tail.size() - tail_sent}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    alignas(cmsghdr) std::byte control[CMSG_SPACE(protocol::kMaxFds * sizeof(int))] = {};
    if (item.sent == 0 && !item.fds.empty()) {
      if (item.fds.size() > protocol::kMaxFds)
        return fail(Errc::limit, "{} descriptors for one message", item.fds.size());
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(item.fds.size() * sizeof(int));
      auto* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(item.fds.size() * sizeof(int));
      for (std::size_t i = 0; i < item.fds.size(); ++i) {
        const int fd = item.fds[i].get();
        std::memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
      }
    }
    const auto sent = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
      if (errno == EPIPE || errno == ECONNRESET) return fail(Errc::closed, "connection closed by the peer");
      return fail_errno(errno, "cannot send");
    }
    item.sent += static_cast<std::size_t>(sent);
    bytes_ -= static_cast<std::size_t>(sent);
    if (item.sent == item.size()) waiting_.pop_front();
  }
  return true;
}

}  // namespace handover::vfio_user
