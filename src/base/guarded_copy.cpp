#include "handover/base/guarded_copy.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace handover {
namespace {

// process_vm_readv/writev between two ranges of this process; `transfer` is one of them.
// Where a sandbox forbids the system call there is only the plain copy, and a client that cuts its file
// short ends its own device.
template <class Transfer, class Plain>
bool copy(Transfer transfer, Plain plain, std::byte* ours, std::byte* mapped, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    iovec local{ours + done, size - done};
    iovec remote{mapped + done, size - done};
    const auto moved = transfer(::getpid(), &local, 1, &remote, 1, 0);
    if (moved < 0 && (errno == ENOSYS || errno == EPERM))
      return plain(ours + done, mapped + done, size - done);
    if (moved <= 0) return false;
    done += static_cast<std::size_t>(moved);
  }
  return true;
}

}  // namespace

bool guarded_read(std::span<std::byte> to, const std::byte* mapped) {
  const auto plain = [](std::byte* ours, const std::byte* theirs, std::size_t size) {
    std::memcpy(ours, theirs, size);
    return true;
  };
  return copy(::process_vm_readv, plain, to.data(), const_cast<std::byte*>(mapped), to.size());
}

bool guarded_write(std::byte* mapped, std::span<const std::byte> from) {
  const auto plain = [](const std::byte* ours, std::byte* theirs, std::size_t size) {
    std::memcpy(theirs, ours, size);
    return true;
  };
  return copy(::process_vm_writev, plain, const_cast<std::byte*>(from.data()), mapped, from.size());
}

bool cannot_shrink(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK);
}

}  // namespace handover
