#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <functional>
#include <string>
#include <thread>

#include "handover/base/cancel.h"
#include "vfio_user/transport/frame_reader.h"
#include "vfio_user/transport/send_queue.h"
#include "vfio_user/transport/unix_socket.h"

namespace handover::test {

/// Stands between a vfio-user client and its server and changes what the server answers.
class TamperingRelay {
 public:
  /// What becomes of an answer: changed in place, or (false) never passed on.  Called on the relay's thread.
  using Tamper = std::function<bool(vfio_user::Message&)>;

  TamperingRelay(const std::string& near, const std::string& server, Tamper tamper)
      : tamper_(std::move(tamper)), listener_(vfio_user::listen_unix(near).value()) {
    // Either side may go first; what ends the connection ends the relay.
    thread_ = std::thread([this, server] { (void)run(server); });
  }
  ~TamperingRelay() {
    stop_.cancel("the test is over");
    thread_.join();
  }

 private:
  struct End {
    explicit End(UniqueFd fd) : socket(std::move(fd)) {}
    UniqueFd socket;
    vfio_user::FrameReader reader{64 << 20};
    vfio_user::SendQueue queue;
  };

  Status run(const std::string& server) {
    HANDOVER_TRY(wait_fd(listener_.get(), POLLIN, stop_.token()));
    End client(UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)));
    HANDOVER_ASSIGN(auto connected, vfio_user::connect_unix(server, stop_.token(), std::nullopt));
    End device(std::move(connected));
    for (;;) {
      HANDOVER_TRY(pass(client, device, false));
      HANDOVER_TRY(pass(device, client, true));
      pollfd fds[] = {{stop_.token().fd(), POLLIN, 0}, events(client), events(device)};
      ::poll(fds, 3, -1);
      HANDOVER_TRY(stop_.token().check());
    }
  }
  static pollfd events(const End& end) {
    return {end.socket.get(), static_cast<short>(POLLIN | (end.queue.empty() ? 0 : POLLOUT)), 0};
  }
  Status pass(End& from, End& to, bool answers) {
    for (;;) {
      HANDOVER_ASSIGN(auto message, from.reader.read(from.socket.get()));
      if (!message) break;
      if (answers && message->header.is_reply() && !tamper_(*message)) continue;
      auto bytes = vfio_user::MessageBuilder().data(message->payload).finish(message->header);
      to.queue.push(std::move(bytes), std::move(message->fds));
    }
    HANDOVER_TRY(to.queue.flush(to.socket.get()));
    return {};
  }

  Tamper tamper_;
  UniqueFd listener_;
  CancelSource stop_;
  std::thread thread_;
};

}  // namespace handover::test
