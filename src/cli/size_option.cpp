#include "cli/size_option.h"

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <limits>

#include "handover/base/units.h"

namespace handover::cli {
namespace {

struct Unit {
  char letter;
  std::uint64_t bytes;
};
constexpr std::array kUnits = {Unit{'T', 1024 * GiB}, Unit{'G', GiB}, Unit{'M', MiB}, Unit{'K', KiB}};

std::string judge(const SizeRange& range, std::string& text) {
  const bool bounded = range.most != std::numeric_limits<std::uint64_t>::max();
  const auto spelling =
      fmt::format("sizes from {}{} are possible, for example {}", size_argument(range.least),
                  bounded ? " to " + size_argument(range.most) : " up", range.example);
  const auto size = parse_size(text);
  if (!size) return fmt::format("{}; {}", size.error().to_string(), spelling);
  if (*size < range.least || *size > range.most) return fmt::format("{} is out of range; {}", text, spelling);
  if (*size % range.multiple_of != 0)
    return fmt::format("{} is no multiple of {}; {}", text, size_argument(range.multiple_of), spelling);
  text = std::to_string(*size);
  return {};
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range) return fail(Errc::limit, "`{}` is too large", text);
  if (error != std::errc()) return fail(Errc::invalid_argument, "`{}` is no size", text);
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  if (unit.empty()) return number;
  std::uint64_t factor = 1;
  for (const Unit& known : kUnits)
    if ((unit.front() & ~0x20) == known.letter) factor = known.bytes;
  if (factor != 1) unit.remove_prefix(1);
  if (!unit.empty() && unit != "B" && (factor == 1 || unit != "iB"))
    return fail(Errc::invalid_argument, "`{}` is no size", text);
  if (number > std::numeric_limits<std::uint64_t>::max() / factor)
    return fail(Errc::limit, "`{}` is too large", text);
  return number * factor;
}

std::string size_argument(std::uint64_t bytes) {
  for (const Unit& unit : kUnits)
    if (bytes != 0 && bytes % unit.bytes == 0) return fmt::format("{}{}", bytes / unit.bytes, unit.letter);
  return std::to_string(bytes);
}

CLI::Validator size_in(SizeRange range) {
  return CLI::Validator([range = std::move(range)](std::string& text) { return judge(range, text); }, "");
}

}  // namespace handover::cli
