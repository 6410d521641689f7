#include "control/socket_path.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace handover::control {
namespace {

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "cannot make a UNIX socket");
  return fd;
}

// Makes room for a new socket where a dead process left its own.
Status remove_stale(const std::string& path, const sockaddr_un& address) {
  struct stat found{};
  if (::lstat(path.c_str(), &found) != 0) return {};
  if (!S_ISSOCK(found.st_mode))
    return fail(Errc::invalid_argument, "{} exists and is no socket; choose another path or remove it", path);
  HANDOVER_ASSIGN(auto probe, make_socket());
  if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN)
    return fail(Errc::state, "{} is in use: another process listens on it", path);
  if (errno != ECONNREFUSED) return fail_errno(errno, "cannot tell whether {} is in use", path);
  if (::unlink(path.c_str()) != 0) return fail_errno(errno, "cannot remove the stale socket {}", path);
  return {};
}

}  // namespace

Result<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return fail(Errc::invalid_argument, "the path of the socket is empty");
  if (path.size() >= sizeof address.sun_path)
    return fail(Errc::invalid_argument, "the socket path {:.120} is {} bytes long, {} are possible", path,
                path.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<SocketPath> SocketPath::listen(const std::string& path) {
  HANDOVER_ASSIGN(const auto address, socket_address(path));
  const auto directory = std::filesystem::path(path).parent_path();
  std::error_code ignored;
  if (!directory.empty() && !std::filesystem::is_directory(directory, ignored))
    return fail(Errc::not_found, "cannot listen on {}: the directory {} does not exist; create it first",
                path, directory.string());
  HANDOVER_TRY(remove_stale(path, address));

  HANDOVER_ASSIGN(auto fd, make_socket());
  // The mode of the socket before bind() is the mode of its file: nobody else gets in, not even for a moment.
  if (::fchmod(fd.get(), 0600) != 0) return fail_errno(errno, "cannot set the mode of {}", path);
  if (::bind(fd.get(), generic(address), sizeof address) != 0)
    return fail_errno(errno, "cannot listen on {}", path);
  SocketPath made(path, std::move(fd));
  struct stat found{};
  if (::lstat(path.c_str(), &found) == 0) {
    made.device_ = found.st_dev;
    made.inode_ = found.st_ino;
  }
  if (::listen(made.fd_.get(), 16) != 0) return fail_errno(errno, "cannot listen on {}", path);
  return made;
}

SocketPath::SocketPath(SocketPath&& other) noexcept
    : path_(std::exchange(other.path_, {})),
      fd_(std::move(other.fd_)),
      device_(other.device_),
      inode_(other.inode_) {
}

SocketPath::~SocketPath() {
  struct stat found{};
  // Only our own: another process may have taken the path over meanwhile.
  if (!path_.empty() && ::lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ &&
      found.st_ino == inode_)
    ::unlink(path_.c_str());
}

}  // namespace handover::control
