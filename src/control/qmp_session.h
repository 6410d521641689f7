#pragma once

#include <array>
#include <asio/local/stream_protocol.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "control/command_table.h"
#include "control/qmp_framer.h"
#include "control/qmp_message.h"
#include "handover/base/event_loop.h"

namespace handover::control {

/// The way back to an event loop from threads that may outlive it.
class LoopGate {
 public:
  explicit LoopGate(EventLoop& loop) : loop_(&loop) {}
  /// Runs `work` on the loop, or drops it once the gate is closed.  Any thread.
  void post(std::function<void()> work);
  void close();

 private:
  std::mutex mutex_;  // posting only
  EventLoop* loop_;
};

/// One client of a QMP server.  Lives on the server's event loop.
///
/// Commands of a client are carried out one after the other, so answers come in the order of the questions;
/// while one is at work, or while the client leaves too much unread, no more is read from it.
class QmpSession : public std::enable_shared_from_this<QmpSession> {
 public:
  using Socket = asio::local::stream_protocol::socket;
  struct Limits {
    std::size_t max_text = kMaxCommandText;
    /// A client that leaves more than this unread is dropped.
    std::size_t max_unread = 8 << 20;
  };

  QmpSession(Socket socket, std::shared_ptr<LoopGate> gate, std::shared_ptr<const CommandTable> commands,
             Limits limits, std::function<void(QmpSession*)> on_end);

  void start();
  /// Sends an event, if the client has finished its negotiation.
  void emit(const std::string& line);
  /// Sends what the socket takes at once and ends the connection.
  void close();

 private:
  void read();
  void proceed();
  void carry_out(const std::string& text);
  void run(const QmpRequest& request);
  void negotiate(const QmpRequest& request);
  void answer(const nlohmann::json& value);
  void answer_error(std::string_view error_class, std::string_view desc);
  void send(std::string line);
  void write();

  Socket socket_;
  std::shared_ptr<LoopGate> gate_;
  std::shared_ptr<const CommandTable> commands_;
  Limits limits_;
  std::function<void(QmpSession*)> on_end_;
  QmpFramer framer_;
  std::array<char, 16384> input_{};
  std::deque<std::string> unread_;  // the first is being written
  std::size_t unread_bytes_ = 0;
  std::optional<nlohmann::json> id_;  // of the command at work
  bool negotiated_ = false;
  bool busy_ = false;
  bool reading_ = false;
  bool writing_ = false;
  bool ended_ = false;  // the client sends no more
  bool closed_ = false;
};

}  // namespace handover::control
