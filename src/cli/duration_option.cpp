#include "cli/duration_option.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <limits>

namespace handover::cli {
namespace {

struct Unit {
  std::string_view name;
  std::int64_t nanoseconds;
};
// The coarsest first: the first that divides a duration is how it is written.
constexpr std::array kUnits = {Unit{"s", 1'000'000'000}, Unit{"ms", 1'000'000}, Unit{"us", 1'000},
                               Unit{"ns", 1}};

}  // namespace

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto unit = text.substr(static_cast<std::size_t>(end - text.data()));
  if (error == std::errc::result_out_of_range) return fail(Errc::limit, "`{}` is too long", text);
  if (error != std::errc() || number < 0) return fail(Errc::invalid_argument, "`{}` is no duration", text);
  if (number == 0 && unit.empty()) return std::chrono::nanoseconds(0);
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    if (number > std::numeric_limits<std::int64_t>::max() / known.nanoseconds)
      return fail(Errc::limit, "`{}` is too long", text);
    return std::chrono::nanoseconds(number * known.nanoseconds);
  }
  return fail(Errc::invalid_argument, "`{}` is no duration", text);
}

std::string duration_argument(std::chrono::nanoseconds duration) {
  for (const Unit& unit : kUnits)
    if (duration.count() != 0 && duration.count() % unit.nanoseconds == 0)
      return fmt::format("{}{}", duration.count() / unit.nanoseconds, unit.name);
  return "0";
}

CLI::Validator duration_up_to(std::chrono::nanoseconds most) {
  return CLI::Validator(
      [most](std::string& text) -> std::string {
        const auto spelling =
            fmt::format("durations from 0 to {} are possible, for example 70ms", duration_argument(most));
        const auto duration = parse_duration(text);
        if (!duration) return fmt::format("{}; {}", duration.error().to_string(), spelling);
        if (*duration > most) return fmt::format("{} is out of range; {}", text, spelling);
        return {};
      },
      "");
}

}  // namespace handover::cli
