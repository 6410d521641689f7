#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "handover/base/result.h"

/// Answers of a machine as text for people.  What does not have the shape that it should have is a failure.
namespace handover::cli {

/// The list of reasons in an answer to query-migrate; empty if there is none.
Result<nlohmann::json> blocked_reasons(const nlohmann::json& answer);
Result<std::string> blockers_text(const nlohmann::json& reasons);
/// A table of x-handover-query-devices, each blocker in a line of its own below its device.
Result<std::string> devices_text(const nlohmann::json& devices);

}  // namespace handover::cli
