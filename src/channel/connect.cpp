#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "channel/exec_channel.h"
#include "channel/file_channel.h"
#include "channel/socket_address.h"
#include "handover/channel/channel.h"

namespace handover {
namespace {

using namespace std::chrono_literals;

/// Connects one non-blocking socket, waiting as long as the system does or until cancelled.
Result<UniqueFd> connect_socket(int family, const sockaddr* to, socklen_t size, const CancelToken& cancel) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "socket");
  while (::connect(fd.get(), to, size) < 0) {
    if (errno == EAGAIN) {
      // A unix listener whose queue is full; poll() cannot tell when there is room again.
      auto pause = wait_fd(-1, 0, cancel, std::chrono::steady_clock::now() + 10ms);
      if (!pause && pause.error().code() != Errc::timeout) return std::unexpected(pause.error());
      continue;
    }
    if (errno == EISCONN) break;
    if (errno != EINPROGRESS && errno != EINTR && errno != EALREADY)
      return std::unexpected(Error(Errc::io, errno_text(errno), errno));
    HANDOVER_TRY(wait_fd(fd.get(), POLLOUT, cancel));
    int err = 0;
    socklen_t length = sizeof err;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &err, &length) < 0) err = errno;
    if (err != 0) return std::unexpected(Error(Errc::io, errno_text(err), err));
    break;
  }
  return fd;
}

Result<UniqueFd> connect_tcp(const Address& address, const CancelToken& cancel) {
  HANDOVER_ASSIGN(auto list, resolve(address, false));
  Result<UniqueFd> last = fail(Errc::not_found, "the host has no address");
  for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    last = connect_socket(one->ai_family, one->ai_addr, one->ai_addrlen, cancel);
    if (last || last.error().code() == Errc::cancelled) break;
  }
  return last;
}

Result<UniqueFd> connect_unix(const Address& address, const CancelToken& cancel) {
  HANDOVER_ASSIGN(auto name, unix_address(address));
  return connect_socket(AF_UNIX, reinterpret_cast<const sockaddr*>(&name), sizeof name, cancel);
}

Result<std::unique_ptr<Channel>> connect_peer(const Address& address, const CancelToken& cancel) {
  auto fd = address.kind == Address::Kind::tcp ? connect_tcp(address, cancel) : connect_unix(address, cancel);
  if (fd) return adopt_channel(std::move(*fd), address.to_string());
  const Error& error = fd.error();
  const bool nobody = error.sys_errno() == ECONNREFUSED || error.sys_errno() == ENOENT;
  return std::unexpected(
      Error(error.code(),
            fmt::format("cannot connect to {}: {}{}", address.to_string(), error.to_string(),
                        nobody ? "; is the destination running with --incoming?" : ""),
            error.sys_errno()));
}

}  // namespace

Result<std::unique_ptr<Channel>> connect_channel(const Address& address, const CancelToken& cancel) {
  HANDOVER_TRY(cancel.check());
  switch (address.kind) {
    case Address::Kind::tcp:
    case Address::Kind::unix_socket:
      return connect_peer(address, cancel);
    case Address::Kind::fd:
      return adopt_channel(UniqueFd(address.fd), address.to_string());
    case Address::Kind::file:
      return create_file_channel(address);
    case Address::Kind::exec:
      return write_to_command(address);
  }
  return fail(Errc::invalid_argument, "an address of an unknown kind");
}

}  // namespace handover
