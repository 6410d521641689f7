#include "vfio_user/transport/send_queue.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "handover/vfio_user/protocol.h"

namespace handover::vfio_user {

void SendQueue::push(std::vector<std::byte> message, std::vector<UniqueFd> fds) {
  bytes_ += message.size();
  waiting_.push_back({std::move(message), std::move(fds), 0});
}

void SendQueue::clear() {
  waiting_.clear();
  bytes_ = 0;
}

Result<bool> SendQueue::flush(int socket) {
  while (!waiting_.empty()) {
    auto& item = waiting_.front();
    iovec part{item.bytes.data() + item.sent, item.bytes.size() - item.sent};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
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
    if (item.sent == item.bytes.size()) waiting_.pop_front();
  }
  return true;
}

}  // namespace handover::vfio_user
