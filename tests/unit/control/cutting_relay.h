#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "control/socket_path.h"
#include "unit/control/qmp_harness.h"

namespace handover::control {

/// Stands between both sides and cuts them apart around the commit.
class CuttingRelay {
 public:
  // The answers before the commit: PONG to the first PING, PONG to the one that asks whether all is loaded;
  // 2 + 2 + 4 bytes each.
  static constexpr std::size_t kAnswersBeforeCommit = 16;
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
    std::size_t answered = 0;
    while (true) {
      pollfd both[2] = {{source.get(), POLLIN, 0}, {destination.fd(), POLLIN, 0}};
      ASSERT_GT(::poll(both, 2, 60'000), 0);
      char bytes[4096];
      if (both[1].revents) {
        const auto count = ::recv(destination.fd(), bytes, 8, 0);
        if (count <= 0) return;
        if (answered >= kAnswersBeforeCommit) return;
        ASSERT_EQ(::send(source.get(), bytes, static_cast<std::size_t>(count), MSG_NOSIGNAL), count);
        answered += static_cast<std::size_t>(count);
      }
      if (both[0].revents) {
        const auto count = ::recv(source.get(), bytes, sizeof bytes, 0);
        const bool loaded = answered == kAnswersBeforeCommit;
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
