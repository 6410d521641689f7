#include "vfio_user/transport/frame_reader.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace handover::vfio_user {

using protocol::kHeaderSize;

namespace {

// Takes ownership of every descriptor that came with the call, whatever else is wrong with it.
void collect_fds(msghdr& message, std::vector<UniqueFd>& fds) {
  for (auto* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const auto count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

// The bytes that arrived, 0 if there are none for now.
Result<std::size_t> FrameReader::receive(int socket, std::span<std::byte> to) {
  alignas(cmsghdr) std::byte control[CMSG_SPACE(protocol::kMaxFds * sizeof(int))];
  iovec part{to.data(), to.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno == ECONNRESET) return fail(Errc::closed, "connection reset by the peer");
    return fail_errno(errno, "cannot receive");
  }
  collect_fds(message, message_.fds);
  if (message.msg_flags & MSG_CTRUNC) return fail(Errc::protocol, "descriptors of a message were lost");
  if (message_.fds.size() > protocol::kMaxFds)
    return fail(Errc::protocol, "more than {} descriptors with one message", protocol::kMaxFds);
  if (got == 0)
    return have_ == 0 ? fail(Errc::closed, "connection closed by the peer")
                      : fail(Errc::closed, "connection closed by the peer inside a message");
  return static_cast<std::size_t>(got);
}

Status FrameReader::begin_payload() {
  NativeReader in(header_);
  HANDOVER_ASSIGN(message_.header, protocol::decode<protocol::Header>(in));
  const auto size = message_.header.size;
  if (size < kHeaderSize || size > max_size_) {
    refused_ = message_.header;
    return fail(Errc::limit, "message of {} bytes; {} to {} are accepted", size, kHeaderSize, max_size_);
  }
  const auto payload = size - kHeaderSize;
  const auto landing = ask_landing_ ? ask_landing_(message_.header) : Landing{};
  const bool fits = payload >= landing.head && payload - landing.head <= landing.to.size();
  message_.landed = fits ? payload - landing.head : 0;
  landing_ = landing.to.first(message_.landed);
  message_.payload = Payload(payload - message_.landed);
  return {};
}

Result<std::optional<Message>> FrameReader::read(int socket) {
  for (;;) {
    const bool in_header = have_ < kHeaderSize;
    const auto payload_end = kHeaderSize + message_.payload.size();
    const auto to = in_header             ? std::span(header_).subspan(have_)
                    : have_ < payload_end ? std::span(message_.payload).subspan(have_ - kHeaderSize)
                                          : landing_.subspan(have_ - payload_end);
    if (!to.empty()) {
      HANDOVER_ASSIGN(auto got, receive(socket, to));
      if (got == 0) return std::nullopt;
      have_ += got;
    }
    if (in_header && have_ == kHeaderSize) HANDOVER_TRY(begin_payload());
    if (have_ >= kHeaderSize && have_ == message_.header.size) {
      have_ = 0;
      return std::exchange(message_, {});
    }
  }
}

}  // namespace handover::vfio_user
