#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <string>
#include <string_view>

#include "handover/base/result.h"

namespace handover::cli {

/// Reads a duration as people type it: 70ms, 1s, 250us; a plain 0 needs no unit.
Result<std::chrono::nanoseconds> parse_duration(std::string_view text);

/// The shortest exact way to type a duration: 70ms, 1s.
std::string duration_argument(std::chrono::nanoseconds duration);

/// For `add_option(name, std::string)->check(duration_up_to(most))`: anything else is a usage error that says
/// how a duration is spelled and how long it may be.
CLI::Validator duration_up_to(std::chrono::nanoseconds most);

}  // namespace handover::cli
