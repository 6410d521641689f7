#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "handover/base/result.h"

/// Checked access to the members of a JSON object that came from outside.  `what` names the object in
/// messages.
namespace handover::control {

/// Fails for anything that is no object, and for members other than `names`.
Status only_members(const nlohmann::json& object, std::string_view what,
                    std::initializer_list<std::string_view> names);

/// Empty if the member is not there; a failure if it has another type.
Result<std::optional<std::string>> optional_text(const nlohmann::json& object, const char* name);
Result<std::optional<bool>> optional_flag(const nlohmann::json& object, const char* name);
Result<std::optional<std::uint64_t>> optional_number(const nlohmann::json& object, const char* name);

/// Fails if the member is not there.
Result<std::string> required_text(const nlohmann::json& object, const char* name);
Result<bool> required_flag(const nlohmann::json& object, const char* name);

}  // namespace handover::control
