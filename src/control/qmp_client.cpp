#include "control/qmp_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "control/qmp_message.h"
#include "control/socket_path.h"

namespace handover::control {

using nlohmann::json;

namespace {

// Reports of long migrations are long; more than this no server of ours sends.
constexpr std::size_t kMaxAnswerText = 16 << 20;
constexpr std::size_t kMaxEvents = 65536;

std::string text_member(const json& object, const char* name) {
  const auto at = object.find(name);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

// Seconds and microseconds since the epoch as one number, if they make sense.
std::int64_t stamp_of(const json& message) {
  constexpr std::int64_t kMost = 1'000'000'000'000;
  const auto stamp = message.find("timestamp");
  if (stamp == message.end() || !stamp->is_object()) return 0;
  std::int64_t parts[2] = {};
  for (int i = 0; i < 2; ++i) {
    const auto part = stamp->find(i == 0 ? "seconds" : "microseconds");
    if (part == stamp->end() || !part->is_number_unsigned()) return 0;
    parts[i] = static_cast<std::int64_t>(std::min<std::uint64_t>(part->get<std::uint64_t>(), kMost));
  }
  return parts[0] * 1'000'000 + parts[1];
}

std::unexpected<Error> answered_error(const json& error) {
  const bool unknown = text_member(error, "class") == kCommandNotFound;
  auto desc = text_member(error, "desc");
  if (desc.empty()) desc = "the server gave no reason";
  return std::unexpected(Error(unknown ? Errc::unsupported : Errc::state, std::move(desc)));
}

}  // namespace

bool is_answer(const Error& error) {
  return error.code() == Errc::state || error.code() == Errc::unsupported;
}

QmpClient::QmpClient(std::string path, UniqueFd fd)
    : path_(std::move(path)), fd_(std::move(fd)), framer_(kMaxAnswerText) {
}

Result<QmpClient> QmpClient::connect(const std::string& path, const CancelToken& cancel, Deadline deadline) {
  HANDOVER_TRY(cancel.check());
  HANDOVER_ASSIGN(const auto address, socket_address(path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "cannot make a UNIX socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ENOENT)
      return fail(Errc::not_found, "no QMP socket at {}; is the machine running, with this --qmp path?",
                  path);
    if (errno == ECONNREFUSED)
      return fail(Errc::closed, "nobody listens on the QMP socket {}; the machine has ended", path);
    return fail_errno(errno, "cannot connect to the QMP socket {}", path);
  }
  QmpClient client(path, std::move(fd));
  HANDOVER_ASSIGN(const auto hello, client.read_message(cancel, deadline));
  if (!hello.contains("QMP")) return fail(Errc::protocol, "{} does not greet like a QMP server", path);
  HANDOVER_TRY_CONTEXT(client.execute("qmp_capabilities", json::object(), cancel, deadline),
                       "cannot negotiate with {}", path);
  return client;
}

Result<json> QmpClient::execute(std::string_view command, json arguments, const CancelToken& cancel,
                                Deadline deadline) {
  const auto id = next_id_++;
  json request{{"execute", command}, {"id", id}};
  if (!arguments.empty()) request["arguments"] = std::move(arguments);
  HANDOVER_TRY_CONTEXT(send(to_line(request), cancel, deadline), "cannot send {}", command);
  for (;;) {
    HANDOVER_ASSIGN_CONTEXT(auto message, read_message(cancel, deadline), "no answer to {}", command);
    if (message.contains("event")) {
      HANDOVER_TRY(keep_event(message));
      continue;
    }
    const auto of = message.find("id");
    // An answer without our id belongs to a question that was given up.
    if (of == message.end() || !of->is_number_unsigned() || of->get<std::uint64_t>() != id) continue;
    if (auto value = message.find("return"); value != message.end()) return std::move(*value);
    if (auto error = message.find("error"); error != message.end() && error->is_object())
      return answered_error(*error);
    return fail(Errc::protocol, "the answer of {} to {} is neither a value nor an error", path_, command);
  }
}

Result<std::optional<QmpEvent>> QmpClient::next_event(const CancelToken& cancel, Deadline deadline) {
  while (events_.empty()) {
    auto message = read_message(cancel, deadline);
    if (!message && message.error().code() == Errc::timeout) return std::nullopt;
    if (!message) return std::unexpected(std::move(message).error());
    if (message->contains("event")) HANDOVER_TRY(keep_event(*message));
  }
  auto event = std::move(events_.front());
  events_.pop_front();
  return event;
}

Status QmpClient::keep_event(const json& message) {
  if (events_.size() >= kMaxEvents)
    return fail(Errc::limit, "{} sent more than {} events at once", path_, kMaxEvents);
  auto data = message.find("data");
  events_.push_back(
      {text_member(message, "event"), data == message.end() ? json::object() : *data, stamp_of(message)});
  return {};
}

Status QmpClient::send(std::string_view line, const CancelToken& cancel, Deadline deadline) {
  // What a cancelled call left goes out first, so that the server never sees half a line.
  unsent_ += line;
  while (!unsent_.empty()) {
    const auto sent = ::send(fd_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      unsent_.erase(0, static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      HANDOVER_TRY(wait_fd(fd_.get(), POLLOUT, cancel, deadline));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return fail(Errc::closed, "{} was closed by the machine", path_);
    } else if (errno != EINTR) {
      return fail_errno(errno, "cannot write to {}", path_);
    }
  }
  return {};
}

Result<json> QmpClient::read_message(const CancelToken& cancel, Deadline deadline) {
  std::array<char, 16384> input;
  for (;;) {
    if (auto text = framer_.next()) {
      if (!*text) return std::unexpected(std::move(*text).error());
      HANDOVER_ASSIGN_CONTEXT(auto message, parse_json(**text), "bad answer from {}", path_);
      if (!message.is_object()) return fail(Errc::protocol, "bad answer from {}: no object", path_);
      return message;
    }
    const auto count = ::recv(fd_.get(), input.data(), input.size(), 0);
    if (count > 0)
      framer_.append({input.data(), static_cast<std::size_t>(count)});
    else if (count == 0 || errno == ECONNRESET)
      return fail(Errc::closed, "{} was closed by the machine", path_);
    else if (errno == EAGAIN)
      HANDOVER_TRY(wait_fd(fd_.get(), POLLIN, cancel, deadline));
    else if (errno != EINTR)
      return fail_errno(errno, "cannot read from {}", path_);
  }
}

}  // namespace handover::control
