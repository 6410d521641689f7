#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "control/socket_path.h"
#include "handover/base/byte_order.h"
#include "handover/migration/protocol.h"
#include "unit/control/qmp_harness.h"

namespace handover::control {

/// Stands between both sides and cuts them apart around the commit.
class CuttingRelay {
 public:
  enum class Cut { mark_is_lost, answer_is_lost };

  CuttingRelay(const std::string& near, const std::string& far, Cut cut)
      : listener_(std::move(*SocketPath::listen(near))), thread_([this, far, cut] { run(far, cut); }) {}
  ~CuttingRelay() { thread_.join(); }

 private:
  void run(const std::string& far, Cut cut) {
    const auto own = listener_.duplicate();
    ASSERT_TRUE(wait_fd(own.get(), POLLIN, {}));
    UniqueFd source(::accept(own.get(), nullptr, nullptr));
    RawClient destination(far);
    bool loaded = false;  // the destination has said so
    while (true) {
      pollfd both[2] = {{source.get(), POLLIN, 0}, {destination.fd(), POLLIN, 0}};
      ASSERT_GT(::poll(both, 2, 60'000), 0);
      char bytes[4096];
      if (both[1].revents) {
        if (loaded) return;
        // Type and length, then so many bytes.
        if (::recv(destination.fd(), bytes, 4, MSG_WAITALL) != 4) return;
        const auto* raw = reinterpret_cast<const std::byte*>(bytes);
        const std::size_t length = load_be<std::uint16_t>(raw + 2);
        ASSERT_LE(length, sizeof bytes - 4);
        if (length > 0 && ::recv(destination.fd(), bytes + 4, length, MSG_WAITALL) != ssize_t(length)) return;
        loaded = load_be<std::uint16_t>(raw) == 2 && load_be<std::uint32_t>(raw + 4) == kPingReady;
        ASSERT_EQ(::send(source.get(), bytes, 4 + length, MSG_NOSIGNAL), ssize_t(4 + length));
      }
      if (both[0].revents) {
        const auto count = ::recv(source.get(), bytes, sizeof bytes, 0);
        if (loaded && cut == Cut::mark_is_lost) return;
        if (count > 0)
          destination.send({bytes, static_cast<std::size_t>(count)});
        else
          destination.end();
        if (count <= 0) {
          // Nothing more comes from the source; what the destination says now is lost.
          while (::recv(destination.fd(), bytes, sizeof bytes, 0) > 0) {
          }
          return;
        }
      }
    }
  }

  SocketPath listener_;
  std::thread thread_;
};

}  // namespace handover::control
