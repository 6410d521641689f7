#include "cli/exit_with_parent.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace handover::cli {

void exit_with_parent() {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  // The parent may have ended before the request: then init, or a subreaper, has taken this process over.
  if (::getppid() == 1) ::raise(SIGTERM);
}

}  // namespace handover::cli
