#include "vfio_kernel/device_node.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace handover::vfio_kernel {
namespace {

// What a rule of udev knows a node by.
std::string_view udev_match(const std::string& path) {
  if (path.starts_with("/dev/vfio/devices/")) return R"(SUBSYSTEM=="vfio-dev")";
  if (path == "/dev/iommu") return R"(KERNEL=="iommu", SUBSYSTEM=="misc")";
  if (path == "/dev/vfio/vfio") return R"(KERNEL=="vfio", SUBSYSTEM=="misc")";
  return R"(SUBSYSTEM=="vfio")";
}

std::unexpected<Error> no_permission(const std::string& path, int err) {
  const auto user = ::geteuid();
  if (user == 0)
    return fail_errno(
        err,
        "no permission for {} although root asks; do a container's device rules or a security module "
        "forbid it?",
        path);
  return fail_errno(
      err,
      "no permission for {}; as root: `chown {} {}`; lasting, by a rule of udev: {}, GROUP=\"kvm\", "
      "MODE=\"0660\" (with this user in that group)",
      path, user, path, udev_match(path));
}

}  // namespace

Result<UniqueFd> open_node(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return fd;
  switch (const int err = errno) {
    case EACCES:
    case EPERM:
      return no_permission(path, err);
    case EBUSY:
      return fail_errno(err, "{} is in use", path);
    case ENOENT:
      return fail_errno(err, "there is no {}; is the vfio module loaded?", path);
    default:
      return fail_errno(err, "cannot open {}", path);
  }
}

}  // namespace handover::vfio_kernel
