#include "cli/exit_with_parent.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace handover::cli {

Status exit_with_parent() {
  const pid_t parent = ::getppid();
  if (::prctl(PR_SET_PDEATHSIG, SIGTERM) != 0)
    return fail_errno(errno, "cannot ask to be ended with the parent process");
  // It may have ended before the request: init, or a subreaper, is the parent then.
  if (::getppid() != parent) return fail(Errc::cancelled, "the parent process has ended already");
  return {};
}

}  // namespace handover::cli
