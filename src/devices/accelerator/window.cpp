#include "devices/accelerator/window.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "devices/accelerator/interface.h"

namespace handover::accelerator {

Result<Window> Window::create() {
  UniqueFd fd(::memfd_create("accelerator-window", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno(errno, "cannot create the accelerator's window");
  if (::ftruncate(fd.get(), static_cast<off_t>(kWindowSize)) != 0)
    return fail_errno(errno, "cannot size the accelerator's window");
  // A client holds the same file: without the seals it could shrink it and kill this process with SIGBUS.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return fail_errno(errno, "cannot seal the accelerator's window");
  HANDOVER_ASSIGN(auto mapping, Mapping::shared(fd.get(), 0, kWindowSize, PROT_READ | PROT_WRITE));
  return Window(std::move(fd), std::move(mapping));
}

void Window::clear() {
  std::ranges::fill(bytes(), std::byte{0});
}

}  // namespace handover::accelerator
