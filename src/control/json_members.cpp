#include "control/json_members.h"

#include <algorithm>

namespace handover::control {
namespace {

using nlohmann::json;

template <class T>
Result<T> required(Result<std::optional<T>> value, const char* name) {
  if (!value) return std::unexpected(std::move(value).error());
  if (!*value) return fail(Errc::invalid_argument, "'{}' is missing", name);
  return std::move(**value);
}

}  // namespace

Status only_members(const json& object, std::string_view what,
                    std::initializer_list<std::string_view> names) {
  if (!object.is_object())
    return fail(Errc::invalid_argument, "{} must be an object, not {}", what, object.type_name());
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(names, std::string_view(key)) != names.end()) continue;
    if (names.size() == 0) return fail(Errc::invalid_argument, "{} takes no '{:.80}'", what, key);
    std::string known;
    for (auto name : names)
      known += (known.empty() ? "" : ", ") + std::string(name);
    return fail(Errc::invalid_argument, "{} takes no '{:.80}'; known are {}", what, key, known);
  }
  return {};
}

Result<std::optional<std::string>> optional_text(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end()) return std::nullopt;
  if (!at->is_string())
    return fail(Errc::invalid_argument, "'{}' must be a string, not {}", name, at->type_name());
  auto text = at->get<std::string>();
  // Such a text ends up in system calls, which would see another one.
  if (text.find('\0') != std::string::npos)
    return fail(Errc::invalid_argument, "'{}' must not contain a zero character", name);
  return text;
}

Result<std::optional<bool>> optional_flag(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end()) return std::nullopt;
  if (!at->is_boolean())
    return fail(Errc::invalid_argument, "'{}' must be true or false, not {}", name, at->type_name());
  return at->get<bool>();
}

Result<std::optional<std::uint64_t>> optional_number(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end()) return std::nullopt;
  const bool negative = at->is_number_integer() && !at->is_number_unsigned() && at->get<std::int64_t>() < 0;
  if (!at->is_number_integer() || negative)
    return fail(Errc::invalid_argument, "'{}' must be a whole number from 0 up", name);
  return at->get<std::uint64_t>();
}

Result<std::string> required_text(const json& object, const char* name) {
  return required(optional_text(object, name), name);
}

Result<bool> required_flag(const json& object, const char* name) {
  return required(optional_flag(object, name), name);
}

}  // namespace handover::control
