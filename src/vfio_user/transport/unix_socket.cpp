#include "vfio_user/transport/unix_socket.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "handover/base/units.h"

namespace handover::vfio_user {
namespace {

constexpr int kBacklog = 8;
constexpr std::chrono::milliseconds kRetry{20};

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return fail(Errc::invalid_argument, "the socket path is empty");
  if (path.size() >= sizeof address.sun_path)
    return fail(Errc::invalid_argument,
                "socket path {} is longer than the {} characters that a UNIX socket can have", path,
                sizeof address.sun_path - 1);
  std::ranges::copy(path, address.sun_path);
  return address;
}

Result<UniqueFd> make_socket() {
  UniqueFd made(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made) return fail_errno(errno, "cannot make a UNIX socket");
  return made;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

Result<UniqueFd> listen_unix(const std::string& path) {
  HANDOVER_ASSIGN(const auto address, address_of(path));
  HANDOVER_ASSIGN(auto listener, make_socket());
  int bound = ::bind(listener.get(), generic(address), sizeof address);
  if (bound < 0 && errno == EADDRINUSE) {
    HANDOVER_ASSIGN(auto probe, make_socket());
    const bool refused =
        ::connect(probe.get(), generic(address), sizeof address) < 0 && errno == ECONNREFUSED;
    if (!refused)
      return fail(Errc::state, "{} is in use; stop the server behind it or choose another path", path);
    ::unlink(path.c_str());
    bound = ::bind(listener.get(), generic(address), sizeof address);
  }
  if (bound < 0) return fail_errno(errno, "cannot create the socket {}", path);
  if (::listen(listener.get(), kBacklog) < 0) return fail_errno(errno, "cannot listen on {}", path);
  return listener;
}

Result<UniqueFd> connect_unix(const std::string& path, const CancelToken& cancel, Deadline deadline) {
  HANDOVER_ASSIGN(const auto address, address_of(path));
  HANDOVER_ASSIGN(auto socket, make_socket());
  while (::connect(socket.get(), generic(address), sizeof address) < 0) {
    if (errno == EINTR) continue;
    if (errno == ENOENT) return fail(Errc::not_found, "no socket at {}", path);
    if (errno == ECONNREFUSED) return fail(Errc::not_found, "nobody listens at {}", path);
    if (errno != EAGAIN) return fail_errno(errno, "cannot connect to {}", path);
    // The backlog is full: others are waiting for the same device.
    if (deadline && std::chrono::steady_clock::now() >= *deadline)
      return fail(Errc::timeout, "the server at {} is busy with other clients", path);
    auto waited = wait_fd(-1, 0, cancel, std::chrono::steady_clock::now() + kRetry);
    if (!waited && waited.error().code() != Errc::timeout) return std::unexpected(std::move(waited).error());
  }
  widen(socket);
  return socket;
}

void widen(const UniqueFd& socket) {
  constexpr int kRoom = static_cast<int>(2 * MiB);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kRoom, sizeof kRoom);
}

}  // namespace handover::vfio_user
