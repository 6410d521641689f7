#include "channel/fd_channel.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <ctime>
#include <tuple>

namespace handover {
namespace {

/// A pipe has no MSG_NOSIGNAL: keeps the SIGPIPE of a broken one from the process, whatever its handlers are.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    if (sigismember(&pending, SIGPIPE)) return;  // somebody else's; it stays pending
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    active_ = pthread_sigmask(SIG_BLOCK, &pipe_, &before_) == 0;
  }
  ~NoSigpipe() {
    if (!active_) return;
    const int saved = errno;
    const timespec now{};
    while (sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = saved;
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t pipe_{};
  sigset_t before_{};
  bool active_ = false;
};

bool would_block(int err) {
  return err == EAGAIN || err == EWOULDBLOCK;
}

std::unexpected<Error> failed(int err, std::string_view doing, const std::string& name) {
  const bool gone = err == ECONNRESET || err == EPIPE || err == ECONNABORTED;
  return std::unexpected(Error(gone ? Errc::closed : Errc::io,
                               fmt::format("cannot {} {}: {}", doing, name, errno_text(err)), err));
}

}  // namespace

RemainingBuffers::RemainingBuffers(std::span<const iovec> buffers) : parts_(buffers.begin(), buffers.end()) {
  advance(0);
}

std::span<iovec> RemainingBuffers::next() {
  return std::span(parts_).subspan(first_, std::min<std::size_t>(parts_.size() - first_, IOV_MAX));
}

void RemainingBuffers::advance(std::size_t count) {
  while (first_ < parts_.size() && count >= parts_[first_].iov_len) {
    count -= parts_[first_].iov_len;
    ++first_;
  }
  if (count == 0) return;
  parts_[first_].iov_base = static_cast<std::byte*>(parts_[first_].iov_base) + count;
  parts_[first_].iov_len -= count;
}

FdChannel::FdChannel(UniqueFd fd, Kind kind, std::string name)
    : fd_(std::move(fd)), kind_(kind), name_(std::move(name)) {
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  ::fcntl(fd_.get(), F_SETFD, FD_CLOEXEC);
  if (kind_ != Kind::socket) return;
  // Answers of a few bytes must not wait for more to send, and an end that waits in silence must notice
  // within a minute that the other host is gone.  Unix sockets refuse these options, and need them not.
  constexpr std::tuple<int, int, int> kOptions[] = {{IPPROTO_TCP, TCP_NODELAY, 1},
                                                    {SOL_SOCKET, SO_KEEPALIVE, 1},
                                                    {IPPROTO_TCP, TCP_KEEPIDLE, 20},
                                                    {IPPROTO_TCP, TCP_KEEPINTVL, 5},
                                                    {IPPROTO_TCP, TCP_KEEPCNT, 6}};
  for (const auto& [level, option, value] : kOptions)
    ::setsockopt(fd_.get(), level, option, &value, sizeof value);
}

Result<std::size_t> FdChannel::read_some(std::span<const iovec> buffers) {
  const auto count = static_cast<int>(std::min<std::size_t>(buffers.size(), IOV_MAX));
  for (;;) {
    HANDOVER_TRY(token().check());
    const ssize_t got = ::readv(fd_.get(), buffers.data(), count);
    const int err = errno;
    // The end that our own shutdown() made is no end of the stream.
    if (got == 0) HANDOVER_TRY(token().check());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (would_block(err))
      HANDOVER_TRY(wait_fd(fd_.get(), POLLIN, token()));
    else if (err != EINTR)
      return failed(err, "read from", name_);
  }
}

ssize_t FdChannel::write_once(std::span<iovec> parts) {
  if (kind_ == Kind::pipe) {
    NoSigpipe guard;
    return ::writev(fd_.get(), parts.data(), static_cast<int>(parts.size()));
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
}

Status FdChannel::write_all(std::span<const iovec> buffers) {
  RemainingBuffers left(buffers);
  while (!left.empty()) {
    HANDOVER_TRY(token().check());
    const ssize_t put = write_once(left.next());
    const int err = errno;
    if (put >= 0) {
      left.advance(static_cast<std::size_t>(put));
    } else if (would_block(err)) {
      HANDOVER_TRY(wait_fd(fd_.get(), POLLOUT, token()));
    } else if (err != EINTR) {
      HANDOVER_TRY(token().check());
      return failed(err, "write to", name_);
    }
  }
  return token().check();
}

void FdChannel::shutdown() {
  shut_.cancel(name_ + " was shut down");
  if (kind_ == Kind::socket) ::shutdown(fd_.get(), SHUT_RDWR);
}

void FdChannel::finish_writing() {
  if (kind_ == Kind::socket) ::shutdown(fd_.get(), SHUT_WR);
}

void FdChannel::stop_reading() {
  if (kind_ == Kind::socket)
    ::shutdown(fd_.get(), SHUT_RD);
  else
    shutdown();
}

Result<std::unique_ptr<Channel>> adopt_channel(UniqueFd fd, std::string name) {
  struct stat info{};
  if (::fstat(fd.get(), &info) < 0) return fail_errno(errno, "cannot use {}", name);
  if (S_ISFIFO(info.st_mode))
    return std::make_unique<FdChannel>(std::move(fd), FdChannel::Kind::pipe, std::move(name));
  if (!S_ISSOCK(info.st_mode))
    return fail(Errc::invalid_argument, "{} is neither a socket nor a pipe; use file:PATH for plain files",
                name);
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
    return fail(Errc::invalid_argument, "{} is not a stream socket", name);
  return std::make_unique<FdChannel>(std::move(fd), FdChannel::Kind::socket, std::move(name));
}

}  // namespace handover
