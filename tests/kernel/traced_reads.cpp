#include "traced_reads.h"

#include <fmt/core.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <map>

namespace handover {
namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;  // with PTRACE_O_TRACESYSGOOD

bool is_of(pid_t thread, std::uint64_t fd, const char* name) {
  std::error_code none;
  const auto link = std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", thread, fd), none);
  return !none && link.string().find(name) != std::string::npos;
}

}  // namespace

TracedRun trace_reads(const char* name, const std::function<int()>& child) {
  const pid_t process = ::fork();
  if (process == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    ::_exit(child());
  }
  TracedRun run;
  int status = 0;
  if (process < 0 || ::waitpid(process, &status, __WALL) != process || !WIFSTOPPED(status)) return run;
  ::ptrace(PTRACE_SETOPTIONS, process, nullptr,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
  ::ptrace(PTRACE_SYSCALL, process, nullptr, nullptr);
  std::map<pid_t, std::uint64_t> asked;  // by threads that are in such a read
  for (;;) {
    const pid_t thread = ::waitpid(-1, &status, __WALL);
    if (thread < 0 && errno == EINTR) continue;
    if (thread < 0) return run;
    if (!WIFSTOPPED(status)) {
      if (thread != process) continue;
      if (WIFEXITED(status)) run.exit_code = WEXITSTATUS(status);
      return run;
    }
    long deliver = 0;
    if (WSTOPSIG(status) == kSyscallStop) {
      __ptrace_syscall_info info{};
      ::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info);
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_read &&
          is_of(thread, info.entry.args[0], name)) {
        asked[thread] = info.entry.args[2];
      } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && asked.contains(thread)) {
        run.reads.push_back({asked[thread], info.exit.rval});
        asked.erase(thread);
      }
    } else if (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGSTOP) {
      deliver = WSTOPSIG(status);  // SIGTRAP and SIGSTOP are the tracing's own
    }
    ::ptrace(PTRACE_SYSCALL, thread, nullptr, deliver);
  }
}

}  // namespace handover
