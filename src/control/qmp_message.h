#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "handover/base/result.h"

/// QMP's messages as JSON; no I/O here.
namespace handover::control {

/// Longest text of one command.
inline constexpr std::size_t kMaxCommandText = 1 << 20;
/// Deepest nesting that is looked at: printing JSON takes stack by its depth.
inline constexpr std::size_t kMaxNesting = 64;

inline constexpr std::string_view kGenericError = "GenericError";
inline constexpr std::string_view kCommandNotFound = "CommandNotFound";

struct QmpRequest {
  std::string command;
  nlohmann::json arguments = nlohmann::json::object();
};

/// What a text turned out to be; the id is there even if the request is faulty, so that the error finds home.
struct ParsedRequest {
  std::optional<nlohmann::json> id;
  Result<QmpRequest> request;
};

/// Foreign JSON: checked for depth, encoding and syntax.
Result<nlohmann::json> parse_json(std::string_view text);
ParsedRequest parse_request(std::string_view text);

nlohmann::json greeting();
/// The object of query-version and of the greeting.
nlohmann::json version();
nlohmann::json return_message(nlohmann::json value, const std::optional<nlohmann::json>& id);
nlohmann::json error_message(std::string_view error_class, std::string_view desc,
                             const std::optional<nlohmann::json>& id);
nlohmann::json event_message(std::string_view name, nlohmann::json data,
                             std::chrono::system_clock::time_point when);

/// One line of the protocol, with its line end; text that is no UTF-8 is repaired.
std::string to_line(const nlohmann::json& message);

}  // namespace handover::control
