#include "channel/exec_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "channel/fd_channel.h"

extern char** environ;

namespace handover {
namespace {

using namespace std::chrono_literals;

/// A child in a process group of its own; reaped at the latest by the destructor.
class Child {
 public:
  Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Asks first, then insists: a command that ignores the end of its input must not hang its caller.
  ~Child() {
    for (int signal : {SIGTERM, SIGKILL}) {
      if (ended(std::chrono::steady_clock::now() + 2s)) return;
      ::kill(-pid_, signal);
    }
    (void)wait({}, {});
  }

  /// Does not wait for a voluntary end.
  void terminate() { ::kill(-pid_, SIGTERM); }

  /// The status of waitpid().
  Result<int> wait(const CancelToken& token, Deadline deadline) {
    if (reaped_) return status_;
    HANDOVER_TRY(wait_fd(pidfd_.get(), POLLIN, token, deadline));
    while (::waitpid(pid_, &status_, 0) < 0)
      if (errno != EINTR) return fail_errno(errno, "cannot wait for process {}", pid_);
    reaped_ = true;
    return status_;
  }

 private:
  bool ended(std::chrono::steady_clock::time_point deadline) { return wait({}, deadline).has_value(); }

  pid_t pid_;
  UniqueFd pidfd_;
  int status_ = 0;
  bool reaped_ = false;
};

class ExecChannel final : public Channel {
 public:
  ExecChannel(UniqueFd pipe, pid_t pid, UniqueFd pidfd, const std::string& name)
      : child_(pid, std::move(pidfd)), pipe_(std::move(pipe), FdChannel::Kind::pipe, name) {}
  ~ExecChannel() override {
    if (pipe_.token().cancelled()) child_.terminate();
  }

  Result<std::size_t> read_some(std::span<const iovec> buffers) override { return pipe_.read_some(buffers); }
  Status write_all(std::span<const iovec> buffers) override { return pipe_.write_all(buffers); }
  void shutdown() override { pipe_.shutdown(); }
  bool two_way() const override { return false; }
  const std::string& name() const override { return pipe_.name(); }

  Status commit() override {
    HANDOVER_TRY(pipe_.token().check());
    pipe_.close_pipe();
    HANDOVER_ASSIGN_CONTEXT(int status, child_.wait(pipe_.token(), {}), "waiting for {}", name());
    if (WIFSIGNALED(status)) return fail(Errc::io, "{} was ended by signal {}", name(), WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
      return fail(Errc::io, "{} ended with status {}", name(), WEXITSTATUS(status));
    return {};
  }

 private:
  Child child_;  // destroyed last, when the pipe is closed
  FdChannel pipe_;
};

/// posix_spawn's two attribute objects, destroyed on every way out.
struct SpawnSettings {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnSettings() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

Result<std::unique_ptr<Channel>> start(const Address& address, bool writing) {
  const std::string name = address.to_string();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno(errno, "cannot start {}", name);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  UniqueFd& ours = writing ? write_end : read_end;
  UniqueFd& theirs = writing ? read_end : write_end;

  SpawnSettings settings;
  if (!writing) posix_spawn_file_actions_addopen(&settings.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&settings.actions, theirs.get(), writing ? STDIN_FILENO : STDOUT_FILENO);
  // The child starts with the signals as a shell expects them, whatever this process ignores or blocks.
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&settings.attributes, &none);
  posix_spawnattr_setsigdefault(&settings.attributes, &defaults);
  posix_spawnattr_setpgroup(&settings.attributes, 0);
  posix_spawnattr_setflags(&settings.attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  std::string shell = "/bin/sh", option = "-c", command = address.path;
  char* const arguments[] = {shell.data(), option.data(), command.data(), nullptr};
  pid_t pid = -1;
  if (int err = posix_spawn(&pid, shell.c_str(), &settings.actions, &settings.attributes, arguments, environ))
    return fail_errno(err, "cannot start {}", name);
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));  // glibc's header lacks extern "C"
  if (!pidfd) {
    const int err = errno;
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return fail_errno(err, "cannot watch {}", name);
  }
  return std::make_unique<ExecChannel>(std::move(ours), pid, std::move(pidfd), name);
}

}  // namespace

Result<std::unique_ptr<Channel>> write_to_command(const Address& address) {
  return start(address, true);
}

Result<std::unique_ptr<Channel>> read_from_command(const Address& address) {
  return start(address, false);
}

}  // namespace handover
