#include "vfio_kernel/dma_space.h"

#include <sys/resource.h>

#include <cerrno>

namespace handover::vfio_kernel {

std::unexpected<Error> explain_map_failure(const vfio::DmaMapping& mapping, Error error) {
  const int err = error.sys_errno();
  auto text = fmt::format("mapping [{:#x}, +{:#x}) for DMA", mapping.iova.value, mapping.size);
  rlimit limit{};
  if (err == ENOMEM && ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    text += fmt::format(
        " (memory that a device reaches stays locked, and the limit is {} KiB for a process or, with "
        "iommufd, all of a "
        "user's together; raise it: `ulimit -l`, memlock in /etc/security/limits.conf, LimitMEMLOCK= of a "
        "service)",
        limit.rlim_cur / 1024);
  return std::unexpected(std::move(error).with_context(std::move(text)));
}

}  // namespace handover::vfio_kernel
