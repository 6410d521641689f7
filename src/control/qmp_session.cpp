#include "control/qmp_session.h"

#include <sys/socket.h>

#include <asio/buffer.hpp>
#include <asio/error.hpp>
#include <asio/write.hpp>

#include "control/json_members.h"
#include "handover/base/log.h"

namespace handover::control {

using nlohmann::json;

namespace {
// Answers wait for the client beyond this; events go on up to the limit.
constexpr std::size_t kPauseAt = 256 << 10;
}  // namespace

void LoopGate::post(std::function<void()> work) {
  std::lock_guard lock(mutex_);
  if (loop_) loop_->post(std::move(work));
}

void LoopGate::close() {
  std::lock_guard lock(mutex_);
  loop_ = nullptr;
}

QmpSession::QmpSession(Socket socket, std::shared_ptr<LoopGate> gate,
                       std::shared_ptr<const CommandTable> commands, Limits limits,
                       std::function<void(QmpSession*)> on_end)
    : socket_(std::move(socket)),
      gate_(std::move(gate)),
      commands_(std::move(commands)),
      limits_(limits),
      on_end_(std::move(on_end)),
      framer_(limits.max_text) {
}

void QmpSession::start() {
  send(to_line(greeting()));
  read();
}

void QmpSession::emit(const std::string& line) {
  if (negotiated_ && !closed_) send(line);
}

void QmpSession::close() {
  if (closed_) return;
  closed_ = true;
  // The last answers (that of `quit`) get what room the socket has; nobody waits for the rest.
  std::size_t sent_ahead = 0;
  if (!writing_) {
    for (const auto& line : unread_) {
      const auto sent =
          ::send(socket_.native_handle(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 || static_cast<std::size_t>(sent) < line.size()) break;
      ++sent_ahead;
    }
  }
  if (sent_ahead < unread_.size())
    log::debug("qmp: a client left {} answers unread", unread_.size() - sent_ahead);
  asio::error_code ignored;
  socket_.close(ignored);
  if (auto on_end = std::exchange(on_end_, nullptr)) on_end(this);
}

void QmpSession::read() {
  if (reading_ || closed_ || ended_) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(input_),
                          [self = shared_from_this()](const asio::error_code& error, std::size_t count) {
                            self->reading_ = false;
                            if (self->closed_) return;
                            if (error && error != asio::error::eof) return self->close();
                            self->ended_ = error == asio::error::eof;
                            self->framer_.append({self->input_.data(), count});
                            self->proceed();
                          });
}

void QmpSession::proceed() {
  while (!closed_ && !busy_ && unread_bytes_ < kPauseAt) {
    auto text = framer_.next();
    if (!text) {
      if (!ended_) return read();
      if (unread_.empty()) close();
      return;
    }
    id_.reset();
    if (*text)
      carry_out(**text);
    else
      answer_error(kGenericError, text->error().to_string());
  }
}

void QmpSession::carry_out(const std::string& text) {
  auto parsed = parse_request(text);
  id_ = std::move(parsed.id);
  if (!parsed.request) return answer_error(kGenericError, parsed.request.error().to_string());
  if (!negotiated_ || parsed.request->command == "qmp_capabilities") return negotiate(*parsed.request);
  run(*parsed.request);
}

void QmpSession::negotiate(const QmpRequest& request) {
  if (request.command != "qmp_capabilities")
    return answer_error(kCommandNotFound,
                        "capabilities come first: send qmp_capabilities before other commands");
  if (negotiated_) return answer_error(kCommandNotFound, "capabilities have been negotiated already");
  if (auto known = only_members(request.arguments, "qmp_capabilities", {"enable"}); !known)
    return answer_error(kGenericError, known.error().to_string());
  if (auto enable = request.arguments.find("enable"); enable != request.arguments.end()) {
    if (!enable->is_array()) return answer_error(kGenericError, "'enable' must be a list");
    if (!enable->empty()) return answer_error(kGenericError, "this server has no optional QMP capabilities");
  }
  negotiated_ = true;
  answer(json::object());
}

void QmpSession::run(const QmpRequest& request) {
  const auto* handler = commands_->find(request.command);
  if (!handler)
    return answer_error(
        kCommandNotFound,
        fmt::format("there is no command '{:.80}'; query-commands lists them", request.command));
  busy_ = true;
  Reply reply([gate = gate_, weak = weak_from_this()](Result<json> result) {
    gate->post([weak, result = std::move(result)] {
      auto self = weak.lock();
      if (!self || self->closed_) return;
      self->busy_ = false;
      if (result)
        self->answer(*result);
      else
        self->answer_error(kGenericError, result.error().to_string());
      self->proceed();
    });
  });
  try {
    (*handler)(request.arguments, reply);
  } catch (const std::exception& error) {
    // A handler that trips over its arguments is a fault of ours, but no reason to end the machine.
    log::error("qmp: {} failed unexpectedly: {}", request.command, error.what());
    reply(fail(Errc::invalid_argument, "{} failed unexpectedly: {}", request.command, error.what()));
  }
}

void QmpSession::answer(const json& value) {
  send(to_line(return_message(value, id_)));
}

void QmpSession::answer_error(std::string_view error_class, std::string_view desc) {
  send(to_line(error_message(error_class, desc, id_)));
}

void QmpSession::send(std::string line) {
  if (closed_) return;
  if (unread_bytes_ + line.size() > limits_.max_unread) {
    log::warn("qmp: dropping a client that left {} bytes unread", unread_bytes_);
    return close();
  }
  unread_bytes_ += line.size();
  unread_.push_back(std::move(line));
  write();
}

void QmpSession::write() {
  if (writing_ || closed_ || unread_.empty()) return;
  writing_ = true;
  asio::async_write(socket_, asio::buffer(unread_.front()),
                    [self = shared_from_this()](const asio::error_code& error, std::size_t) {
                      self->writing_ = false;
                      if (self->closed_) return;
                      if (error) return self->close();
                      self->unread_bytes_ -= self->unread_.front().size();
                      self->unread_.pop_front();
                      self->write();
                      self->proceed();
                    });
}

}  // namespace handover::control
