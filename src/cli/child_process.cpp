#include "cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <sstream>
#include <utility>

extern char** environ;

namespace handover::cli {

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& arguments, Options options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
  ChildProcess child;
  child.options_ = std::move(options);
  child.stdout_ = UniqueFd(ends[0]);
  UniqueFd write_end(ends[1]);
  ::fcntl(child.stdout_.get(), F_SETFL, O_NONBLOCK);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), 1);
  if (!child.options_.stderr_path.empty())
    ::posix_spawn_file_actions_addopen(&actions, 2, child.options_.stderr_path.c_str(),
                                       O_WRONLY | O_CREAT | O_TRUNC, 0644);
  // A Ctrl-C on the terminal is for the parent, which ends its children in order.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);

  std::vector<char*> argv;
  for (const auto& argument : arguments)
    argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int error = ::posix_spawnp(&child.pid_, argv[0], &actions, &attributes, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    child.pid_ = -1;
    return fail_errno(error, "cannot start {}", arguments[0]);
  }
  child.pidfd_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, child.pid_, 0)));
  if (!child.pidfd_) return fail_errno(errno, "pidfd_open");
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : options_(std::move(other.options_)),
      pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      stdout_(std::move(other.stdout_)),
      pending_(std::move(other.pending_)),
      status_(other.status_) {
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    terminate();
    options_ = std::move(other.options_);
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    stdout_ = std::move(other.stdout_);
    pending_ = std::move(other.pending_);
    status_ = other.status_;
  }
  return *this;
}

ChildProcess::~ChildProcess() {
  terminate();
}

std::string ChildProcess::complaint() const {
  if (options_.stderr_path.empty()) return {};
  std::ifstream file(options_.stderr_path);
  std::ostringstream text;
  text << file.rdbuf();
  auto said = text.str();
  while (!said.empty() && said.back() == '\n')
    said.pop_back();
  return said.empty() ? said : ": " + said.substr(said.size() > 2000 ? said.size() - 2000 : 0);
}

Result<std::string> ChildProcess::read_line(const CancelToken& cancel, Deadline deadline) {
  for (;;) {
    if (auto end = pending_.find('\n'); end != std::string::npos) {
      auto line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return line;
    }
    HANDOVER_TRY_CONTEXT(wait_fd(stdout_.get(), POLLIN, cancel, deadline), "waiting for {}", options_.name);
    char buffer[4096];
    const auto got = ::read(stdout_.get(), buffer, sizeof buffer);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got < 0) return fail_errno(errno, "reading the output of {}", options_.name);
    if (got == 0) {
      HANDOVER_ASSIGN(auto code, wait(cancel, deadline));
      return fail(Errc::closed, "{} ended with exit code {}{}", options_.name, code, complaint());
    }
    pending_.append(buffer, static_cast<std::size_t>(got));
  }
}

void ChildProcess::signal(int number) {
  if (alive()) ::kill(pid_, number);
}

bool ChildProcess::alive() {
  if (pid_ < 0) return false;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return false;
}

Result<int> ChildProcess::wait(const CancelToken& cancel, Deadline deadline) {
  while (alive())
    HANDOVER_TRY_CONTEXT(wait_fd(pidfd_.get(), POLLIN, cancel, deadline), "waiting for {} to end",
                         options_.name);
  return status_;
}

int ChildProcess::terminate(std::chrono::milliseconds patience) {
  if (!alive()) return status_;
  ::kill(pid_, SIGTERM);
  if (auto ended = wait({}, std::chrono::steady_clock::now() + patience); ended) return *ended;
  ::kill(pid_, SIGKILL);
  auto ended = wait({}, {});
  return ended ? *ended : -1;
}

}  // namespace handover::cli
