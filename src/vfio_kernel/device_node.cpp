#include "vfio_kernel/device_node.h"

#include <fcntl.h>

#include <cerrno>

namespace handover::vfio_kernel {

Result<UniqueFd> open_node(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return fd;
  switch (const int err = errno) {
    case EACCES:
    case EPERM:
      return fail_errno(
          err, "no permission for {}; give it to the user that runs this (chown, or a udev rule)", path);
    case EBUSY:
      return fail_errno(err, "{} is in use by another process", path);
    case ENOENT:
      return fail_errno(err, "there is no {}; is the vfio module loaded?", path);
    default:
      return fail_errno(err, "cannot open {}", path);
  }
}

}  // namespace handover::vfio_kernel
