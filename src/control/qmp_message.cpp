#include "control/qmp_message.h"

namespace handover::control {
namespace {

using nlohmann::json;

bool too_deep(std::string_view text) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if ((c == '{' || c == '[') && ++depth > kMaxNesting) return true;
    if ((c == '}' || c == ']') && depth > 0) --depth;
  }
  return false;
}

Result<QmpRequest> request_from(const json& object) {
  QmpRequest request;
  bool named = false;
  for (const auto& [key, value] : object.items()) {
    if (key == "id") continue;
    if (key == "execute") {
      if (!value.is_string())
        return fail(Errc::protocol, "'execute' must be a command's name, not {}", value.type_name());
      request.command = value.get<std::string>();
      named = true;
    } else if (key == "arguments") {
      if (!value.is_object())
        return fail(Errc::protocol, "'arguments' must be an object, not {}", value.type_name());
      request.arguments = value;
    } else {
      return fail(Errc::protocol, "a command has 'execute', 'arguments' and 'id', but not '{:.80}'", key);
    }
  }
  if (!named) return fail(Errc::protocol, "'execute' is missing: it names the command");
  return request;
}

}  // namespace

Result<json> parse_json(std::string_view text) {
  if (too_deep(text)) return fail(Errc::limit, "JSON nested deeper than {} levels", kMaxNesting);
  auto value = json::parse(text, nullptr, false);
  if (value.is_discarded()) return fail(Errc::protocol, "this is not valid JSON");
  return value;
}

ParsedRequest parse_request(std::string_view text) {
  auto value = parse_json(text);
  if (!value) return {std::nullopt, std::unexpected(std::move(value).error())};
  if (!value->is_object())
    return {std::nullopt, fail(Errc::protocol, "a command is a JSON object, not {}", value->type_name())};
  ParsedRequest parsed{std::nullopt, request_from(*value)};
  if (auto id = value->find("id"); id != value->end()) parsed.id = std::move(*id);
  return parsed;
}

json version() {
  // `qemu` says whose command set this is (QEMU 11.1's), for clients that look; `package` is who answers.
  return {{"qemu", {{"major", 11}, {"minor", 1}, {"micro", 0}}}, {"package", "handover " HANDOVER_VERSION}};
}

json greeting() {
  return {{"QMP", {{"version", version()}, {"capabilities", json::array()}}}};
}

json return_message(json value, const std::optional<json>& id) {
  json message{{"return", std::move(value)}};
  if (id) message["id"] = *id;
  return message;
}

json error_message(std::string_view error_class, std::string_view desc, const std::optional<json>& id) {
  json message{{"error", {{"class", error_class}, {"desc", desc}}}};
  if (id) message["id"] = *id;
  return message;
}

json event_message(std::string_view name, json data, std::chrono::system_clock::time_point when) {
  const auto since = when.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(since - seconds);
  json message{{"event", name},
               {"timestamp", {{"seconds", seconds.count()}, {"microseconds", micros.count()}}}};
  if (!data.is_null() && !data.empty()) message["data"] = std::move(data);
  return message;
}

std::string to_line(const json& message) {
  return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\r\n";
}

}  // namespace handover::control
