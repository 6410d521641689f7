#include "cli/device_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace handover::cli {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{200};
/// Where nobody sees a line being redrawn, fewer are enough.
constexpr std::chrono::seconds kBetweenLines{1};

}  // namespace

DeviceWatch::DeviceWatch(const Interrupts& interrupts, UniqueFd changed)
    : interrupts_(&interrupts), changed_(std::move(changed)), terminal_(::isatty(STDOUT_FILENO) == 1) {
}

Result<DeviceWatch> DeviceWatch::create(const Interrupts& interrupts) {
  UniqueFd changed(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!changed) return fail_errno(errno, "cannot make an eventfd");
  return DeviceWatch(interrupts, std::move(changed));
}

std::function<void(MigrationStatus)> DeviceWatch::observer() const {
  return [fd = changed_.get()](MigrationStatus) {
    const std::uint64_t one = 1;
    // A full counter is readable as well.
    [[maybe_unused]] const auto written = ::write(fd, &one, sizeof one);
  };
}

bool DeviceWatch::until(const Wait& wait) {
  for (;;) {
    if (wait.done()) break;
    if (!cancelled_ && interrupts_->first().cancelled()) {
      cancelled_ = true;
      say("cancelling; interrupt again to give up at once");
      if (auto cancel = wait.cancel(); !cancel) say(cancel.error().to_string());
      continue;
    }
    if (interrupts_->again().cancelled()) {
      clear();
      return false;
    }
    show(wait.line());
    const auto token = cancelled_ ? interrupts_->again() : interrupts_->first();
    // A timeout and an interrupt are both seen at the next turn.
    (void)wait_fd(changed_.get(), POLLIN, token, std::chrono::steady_clock::now() + kBetweenLooks);
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(changed_.get(), &count, sizeof count);
  }
  clear();
  return true;
}

void DeviceWatch::show(const std::string& line) {
  if (line.empty()) return;
  if (terminal_) {
    std::printf("\r\x1b[K%s", line.c_str());
    std::fflush(stdout);
    drawn_ = true;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_line_ < kBetweenLines) return;
  last_line_ = now;
  say(line);
}

void DeviceWatch::say(const std::string& line) {
  clear();
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void DeviceWatch::clear() {
  if (!std::exchange(drawn_, false)) return;
  std::printf("\r\x1b[K");
  std::fflush(stdout);
}

}  // namespace handover::cli
