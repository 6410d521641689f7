#include "cli/interrupts.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace handover::cli {

Result<Interrupts> Interrupts::watch() {
  Interrupts made;
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGINT);
  ::sigaddset(&wanted, SIGTERM);
  UniqueFd signals(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return fail_errno(errno, "cannot watch for Ctrl-C");
  ::pthread_sigmask(SIG_BLOCK, &wanted, &made.before_);
  made.thread_ = std::thread([signals = std::move(signals), first = made.first_, again = made.again_,
                              end = made.end_.token()]() mutable {
    while (wait_fd(signals.get(), POLLIN, end)) {
      signalfd_siginfo info{};
      if (::read(signals.get(), &info, sizeof info) != sizeof info) continue;
      if (first.cancelled()) again.cancel("interrupted again");
      first.cancel("interrupted");
    }
  });
  return made;
}

Interrupts::~Interrupts() {
  if (!thread_.joinable()) return;  // moved away
  end_.cancel();
  thread_.join();
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace handover::cli
