#include "cli/query_text.h"

#include <algorithm>
#include <array>
#include <vector>

namespace handover::cli {

using nlohmann::json;

namespace {

// The machine may be of another version than this program.
std::unexpected<Error> strange(const json::exception& why) {
  return std::unexpected(
      Error(Errc::protocol, fmt::format("the machine gave a strange answer: {}", why.what())));
}

constexpr std::size_t kColumns = 7;
using Row = std::array<std::string, kColumns>;

std::string features_of(const json& migration) {
  if (!migration.at("supported").get<bool>()) return "-";
  std::string text = "stop-copy";
  if (migration.at("pre-copy").get<bool>()) text += ", pre-copy";
  if (migration.at("p2p").get<bool>()) text += ", p2p";
  return text;
}

Row row_of(const json& device) {
  const auto& migration = device.at("migration");
  const auto& size = migration.at("stop-copy-size");
  return {
      device.at("id").get<std::string>(),
      device.at("path").get<std::string>(),
      fmt::format("{:04x}:{:04x}", device.at("vendor").get<unsigned>(), device.at("device").get<unsigned>()),
      fmt::format("{} ({})", migration.at("protocol").get<std::string>(), features_of(migration)),
      device.at("lost").get<bool>() ? "lost" : migration.at("state").get<std::string>(),
      size.is_null() ? "?" : fmt::format("{}", size.get<std::uint64_t>()),
      device.at("dirty-tracking").at("tracker").get<std::string>()};
}

}  // namespace

Result<json> blocked_reasons(const json& answer) {
  try {
    return answer.value("blocked-reasons", json::array());
  } catch (const json::exception& why) {
    return strange(why);
  }
}

Result<std::string> blockers_text(const json& reasons) {
  if (reasons.empty()) return "nothing blocks a migration\n";
  try {
    std::string text;
    for (const auto& reason : reasons)
      text += reason.get<std::string>() + "\n";
    return text;
  } catch (const json::exception& why) {
    return strange(why);
  }
}

Result<std::string> devices_text(const json& devices) {
  if (devices.empty()) return "the machine has no devices\n";
  try {
    std::vector<Row> rows{{"id", "path", "is", "migration", "state", "bytes when stopped", "dirty tracking"}};
    for (const auto& device : devices)
      rows.push_back(row_of(device));
    std::array<std::size_t, kColumns> widths{};
    for (const auto& row : rows)
      for (std::size_t i = 0; i < kColumns; ++i)
        widths[i] = std::max(widths[i], row[i].size());
    std::string text;
    for (std::size_t line = 0; line < rows.size(); ++line) {
      for (std::size_t i = 0; i + 1 < kColumns; ++i)
        text += fmt::format("{:<{}}  ", rows[line][i], widths[i]);
      text += rows[line][kColumns - 1] + "\n";
      if (line == 0) continue;
      const auto& tracking = devices.at(line - 1).at("dirty-tracking");
      text += fmt::format("  dirty tracking: {}{}\n", tracking.at("reason").get<std::string>(),
                          tracking.at("pre-copy").get<bool>() ? "" : ", asked only when it has stopped");
      if (const auto& blocker = devices.at(line - 1).at("blocker"); !blocker.is_null())
        text += fmt::format("  blocks migration: {}\n", blocker.get<std::string>());
    }
    return text;
  } catch (const json::exception& why) {
    return strange(why);
  }
}

}  // namespace handover::cli
