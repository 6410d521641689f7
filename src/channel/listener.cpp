#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "channel/exec_channel.h"
#include "channel/file_channel.h"
#include "channel/socket_address.h"
#include "handover/channel/channel.h"

namespace handover {
namespace {

/// Connections that may wait to be accepted: a migration opens one a multifd channel, and at most 255.
constexpr int kBacklog = 256;

class SocketListener : public Listener {
 public:
  SocketListener(UniqueFd fd, Address address) : fd_(std::move(fd)), address_(std::move(address)) {}

  Result<std::unique_ptr<Channel>> accept(const CancelToken& cancel, Deadline deadline) override {
    for (;;) {
      HANDOVER_TRY(cancel.check());
      sockaddr_storage peer{};
      socklen_t size = sizeof peer;
      UniqueFd fd(
          ::accept4(fd_.get(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd) return adopt_channel(std::move(fd), peer_name(peer, size));
      if (errno == EAGAIN || errno == EWOULDBLOCK)
        HANDOVER_TRY(wait_fd(fd_.get(), POLLIN, cancel, deadline));
      else if (errno != EINTR &&
               errno != ECONNABORTED)  // a peer that gave up before its turn is nobody's failure
        return fail_errno(errno, "cannot accept a connection on {}", address_.to_string());
    }
  }
  const Address& address() const override { return address_; }

 private:
  std::string peer_name(const sockaddr_storage& peer, socklen_t size) const {
    return address_.kind == Address::Kind::tcp ? describe(peer, size).to_string() : address_.to_string();
  }

  UniqueFd fd_;
  Address address_;
};

/// Takes its socket file away at the end, unless the name belongs to another socket by then.
class UnixListener final : public SocketListener {
 public:
  UnixListener(UniqueFd fd, Address address, const struct stat& made)
      : SocketListener(std::move(fd), std::move(address)), device_(made.st_dev), inode_(made.st_ino) {}
  ~UnixListener() override {
    struct stat now{};
    const char* path = address().path.c_str();
    if (::lstat(path, &now) == 0 && now.st_dev == device_ && now.st_ino == inode_) ::unlink(path);
  }

 private:
  dev_t device_;
  ino_t inode_;
};

/// Hands out the one channel of an fd, a file or a command.
class SingleListener final : public Listener {
 public:
  SingleListener(std::unique_ptr<Channel> channel, Address address)
      : channel_(std::move(channel)), address_(std::move(address)) {}
  Result<std::unique_ptr<Channel>> accept(const CancelToken& cancel, Deadline) override {
    HANDOVER_TRY(cancel.check());
    if (!channel_) return fail(Errc::state, "{} has only one channel", address_.to_string());
    return std::move(channel_);
  }
  const Address& address() const override { return address_; }

 private:
  std::unique_ptr<Channel> channel_;
  Address address_;
};

Result<UniqueFd> bound_socket(int family, const sockaddr* to, socklen_t size) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return std::unexpected(Error(Errc::io, errno_text(errno), errno));
  const int on = 1;
  if (family != AF_UNIX) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), to, size) < 0 || ::listen(fd.get(), kBacklog) < 0)
    return std::unexpected(Error(Errc::io, errno_text(errno), errno));
  return fd;
}

Result<std::unique_ptr<Listener>> listen_tcp(const Address& wanted) {
  HANDOVER_ASSIGN(auto list, resolve(wanted, true));
  Result<UniqueFd> fd = fail(Errc::not_found, "the host has no address");
  for (const addrinfo* one = list.get(); one != nullptr && !fd; one = one->ai_next)
    fd = bound_socket(one->ai_family, one->ai_addr, one->ai_addrlen);
  if (!fd)
    return std::unexpected(std::move(fd).error().with_context("cannot listen on " + wanted.to_string()));
  sockaddr_storage real{};
  socklen_t size = sizeof real;
  if (::getsockname(fd->get(), reinterpret_cast<sockaddr*>(&real), &size) < 0)
    return fail_errno(errno, "cannot tell the port of {}", wanted.to_string());
  Address address = wanted;
  address.port = describe(real, size).port;
  return std::make_unique<SocketListener>(std::move(*fd), std::move(address));
}

/// Removes a socket file that nobody has open any more.  A datagram socket asks without disturbing a
/// listener: where a stream socket is still bound, connect() fails with EPROTOTYPE, and where none is, with
/// ECONNREFUSED.
Status remove_stale(const Address& address, const sockaddr_un& name) {
  struct stat info{};
  if (::lstat(name.sun_path, &info) < 0) return {};
  if (!S_ISSOCK(info.st_mode))
    return fail(Errc::invalid_argument, "{} exists and is not a socket; choose another path", address.path);
  UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe) return fail_errno(errno, "socket");
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0 ||
      errno != ECONNREFUSED)
    return fail(Errc::state, "{} is in use by a running process; end it or choose another path",
                address.path);
  if (::unlink(name.sun_path) < 0 && errno != ENOENT)
    return fail_errno(errno, "cannot remove the stale socket {}", address.path);
  return {};
}

Result<std::unique_ptr<Listener>> listen_unix(const Address& address) {
  HANDOVER_ASSIGN(auto name, unix_address(address));
  HANDOVER_TRY_CONTEXT(remove_stale(address, name), "cannot listen on {}", address.to_string());
  HANDOVER_ASSIGN_CONTEXT(auto fd,
                          bound_socket(AF_UNIX, reinterpret_cast<const sockaddr*>(&name), sizeof name),
                          "cannot listen on {}", address.to_string());
  struct stat made{};
  if (::lstat(name.sun_path, &made) < 0) return fail_errno(errno, "cannot listen on {}", address.to_string());
  return std::make_unique<UnixListener>(std::move(fd), address, made);
}

Result<std::unique_ptr<Listener>> listen_single(Result<std::unique_ptr<Channel>> channel,
                                                const Address& address) {
  if (!channel) return std::unexpected(std::move(channel).error());
  return std::make_unique<SingleListener>(std::move(*channel), address);
}

}  // namespace

Result<std::unique_ptr<Listener>> listen_on(const Address& address) {
  switch (address.kind) {
    case Address::Kind::tcp:
      return listen_tcp(address);
    case Address::Kind::unix_socket:
      return listen_unix(address);
    case Address::Kind::fd:
      return listen_single(adopt_channel(UniqueFd(address.fd), address.to_string()), address);
    case Address::Kind::file:
      return listen_single(open_file_channel(address), address);
    case Address::Kind::exec:
      return listen_single(read_from_command(address), address);
  }
  return fail(Errc::invalid_argument, "an address of an unknown kind");
}

}  // namespace handover
