#include "vfio_kernel/data_descriptor.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace handover::vfio_kernel {

using vfio::StateRead;

namespace {

std::unexpected<Error> data_error(std::string_view doing, int err) {
  const auto* why = err == ENODEV ? " (its session has ended: it was reset, or is gone)" : "";
  return std::unexpected(
      Error(Errc::device, fmt::format("{} the device's state: {}{}", doing, errno_text(err), why), err));
}

}  // namespace

Result<StateRead> read_state(int data, bool stopped, std::span<std::byte> buffer, const CancelToken& over,
                             std::chrono::milliseconds patience) {
  const auto now = std::chrono::steady_clock::now();
  if (const auto ready = wait_fd(data, POLLIN, over, stopped ? now + patience : now); !ready) {
    if (ready.error().code() != Errc::timeout)
      return std::unexpected(Error(ready.error()).with_context("waiting for the device's state"));
    if (!stopped) return StateRead{StateRead::Kind::nothing_now, 0};
    return fail(Errc::timeout, "the device has given nothing more of its state for {} ms", patience.count());
  }
  for (;;) {
    const auto got = ::read(data, buffer.data(), buffer.size());
    const int err = errno;
    if (got > 0) return StateRead{StateRead::Kind::data, static_cast<std::size_t>(got)};
    // Before STOP_COPY some drivers say by 0 what others say with ENOMSG.
    if (got == 0) return StateRead{stopped ? StateRead::Kind::end : StateRead::Kind::nothing_now, 0};
    if (err == EINTR) continue;
    if (err == ENOMSG && !stopped) return StateRead{StateRead::Kind::nothing_now, 0};
    return data_error("reading", err);
  }
}

Status write_state(int data, std::span<const std::byte> from) {
  while (!from.empty()) {
    const auto put = ::write(data, from.data(), from.size());
    const int err = errno;
    if (put > 0)
      from = from.subspan(static_cast<std::size_t>(put));
    else if (put == 0)
      return fail(Errc::device, "the device takes no more of its state; {} bytes are left", from.size());
    else if (err != EINTR)
      return data_error("writing", err);
  }
  return {};
}

}  // namespace handover::vfio_kernel
