#pragma once

#include <sys/types.h>

#include <string>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

struct sockaddr_un;

namespace handover::control {

/// A listening UNIX socket in the file system, for this user alone; its file goes when it is destroyed.
///
/// A file that a dead process left behind is replaced; one that somebody listens on, or that is no socket,
/// is left alone and refused.
class SocketPath {
 public:
  static Result<SocketPath> listen(const std::string& path);

  SocketPath(SocketPath&& other) noexcept;
  SocketPath& operator=(SocketPath&&) = delete;
  ~SocketPath();

  const std::string& path() const { return path_; }
  UniqueFd duplicate() const { return fd_.duplicate(); }

 private:
  SocketPath(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;  // empty: moved away
  UniqueFd fd_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

/// Fails if the path is too long for a socket.
Result<sockaddr_un> socket_address(const std::string& path);

}  // namespace handover::control
