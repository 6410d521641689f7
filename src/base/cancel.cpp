#include "handover/base/cancel.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "handover/base/unique_fd.h"

namespace handover {

struct CancelToken::State {
  std::stop_source source;
  UniqueFd event;
  std::mutex mutex;  // leaf
  bool cancelled = false;
  std::string reason;
};

CancelSource::CancelSource() : state_(std::make_shared<CancelToken::State>()) {
  state_->event = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void CancelSource::cancel(std::string reason) {
  {
    std::lock_guard lock(state_->mutex);
    // A flag of its own: between this block and request_stop() a second caller would still see no stop.
    if (std::exchange(state_->cancelled, true)) return;
    state_->reason = std::move(reason);
  }
  state_->source.request_stop();
  const std::uint64_t one = 1;
  // The counter can only be full, and then the descriptor is readable already.
  [[maybe_unused]] auto written = ::write(state_->event.get(), &one, sizeof one);
}

Status CancelToken::check() const {
  if (!cancelled()) return {};
  std::lock_guard lock(state_->mutex);
  return std::unexpected(Error(Errc::cancelled, state_->reason));
}

int CancelToken::fd() const {
  return state_ ? state_->event.get() : -1;
}

std::stop_token CancelToken::stop() const {
  return state_ ? state_->source.get_token() : std::stop_token{};
}

Result<short> wait_fd(int fd, short events, const CancelToken& token, Deadline deadline) {
  for (;;) {
    HANDOVER_TRY(token.check());
    int timeout = -1;
    if (deadline) {
      auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - std::chrono::steady_clock::now());
      timeout = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1'000'000));
    }
    pollfd fds[2] = {{fd, events, 0}, {token.fd(), POLLIN, 0}};
    int ready = ::poll(fds, 2, timeout);
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "poll");
    if (ready < 0) continue;
    if (fds[0].revents) return fds[0].revents;
    if (fds[1].revents) continue;
    if (deadline && std::chrono::steady_clock::now() >= *deadline)
      return fail(Errc::timeout, "no answer in time");
  }
}

}  // namespace handover
