#include "cli/device_report.h"

#include <algorithm>
#include <fstream>

#include "cli/migration_progress.h"
#include "control/migration_json.h"

namespace handover::cli {

using nlohmann::ordered_json;

namespace {

constexpr std::size_t kRoundsShown = 10;

std::string ms_text(double ms) {
  return fmt::format("{:.1f} ms", ms);
}

/// Of what took no time that a clock sees there is no rate.
std::string rate_text(std::uint64_t bytes, double seconds) {
  return bytes > 0 && seconds > 0 ? size_text(static_cast<double>(bytes) / seconds) + "/s" : "";
}

std::string row(const std::string& what, std::uint64_t bytes, double seconds, const std::string& remark) {
  auto line = fmt::format("  {:<20} {:>11} {:>11} {:>13}  {}", what, size_text(static_cast<double>(bytes)),
                          ms_text(seconds * 1000), rate_text(bytes, seconds), remark);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string announced(const solo::PrecopyRound& round) {
  const auto told = round.initial_bytes + round.dirty_bytes;
  auto text = fmt::format("announced {}", size_text(static_cast<double>(told)));
  if (round.initial_bytes > 0)
    text += fmt::format(", {} of it initial", size_text(static_cast<double>(round.initial_bytes)));
  return round.ran_dry ? text + "; ran dry" : text;
}

/// Reading on one side and loading on the other overlap; the slower of them counts.
std::optional<double> expected_stop_ms(const solo::DeviceFigures& figures, const Statistics& statistics) {
  if (!figures.stop_expected_ms) return std::nullopt;
  return std::max(*figures.stop_expected_ms, statistics.predicted_downtime_ms);
}

/// Only of a device that runs again: one that stays stopped goes on standing still.
std::optional<double> stood_still_ms(const solo::SoloMachine& machine) {
  if (machine.device_state() != vfio::DeviceState::running) return std::nullopt;
  return machine.states().stopped_ms();
}

std::string source_text(const DeviceReport& report) {
  const auto& machine = *report.source;
  const auto figures = machine.figures();
  std::string text = fmt::format("\n  {:<20} {:>11} {:>11} {:>13}\n", "source", "bytes", "time", "rate");
  for (std::size_t i = 0; i < std::min(figures.rounds.size(), kRoundsShown); ++i) {
    const auto& round = figures.rounds[i];
    text += row(fmt::format("pre-copy, round {}", i + 1), round.bytes, round.seconds, announced(round));
  }
  if (figures.round_count > 1 || (figures.round_count == 0 && figures.precopy_bytes > 0))
    text += row(fmt::format("pre-copy, {} rounds", figures.round_count), figures.precopy_bytes,
                figures.precopy_seconds, "");
  text += row("stop-copy", figures.stop_bytes, figures.stop_seconds,
              figures.stop_told_bytes
                  ? fmt::format("announced {}", size_text(static_cast<double>(*figures.stop_told_bytes)))
                  : "it could not say how much");
  const auto expected = expected_stop_ms(figures, report.statistics);
  text += fmt::format("  {:<20} {:>11}   {}", "stop time", ms_text(report.statistics.downtime_ms),
                      expected ? fmt::format("expected {}", ms_text(*expected)) : "nothing to expect it by");
  if (const auto still = stood_still_ms(machine))
    text += fmt::format("; the device stood still for {}", ms_text(*still));
  return text + "\n";
}

std::string states_text(std::string_view side, const solo::SoloMachine& machine) {
  std::string text =
      fmt::format("\n  {:<20} {:>11} {:>11}\n", fmt::format("{}'s states", side), "reached in", "stayed");
  bool first = true;
  for (const auto& step : machine.states().steps()) {
    text += fmt::format("  {:<20} {:>11} {:>11}\n", to_string(step.state),
                        first ? "" : ms_text(step.reached_in_ms), ms_text(step.stayed_ms));
    first = false;
  }
  return text;
}

std::string loaded_text(const solo::SoloMachine& machine) {
  const auto figures = machine.figures();
  return fmt::format("\n  {:<20} {:>11} {:>11} {:>13}\n", "destination", "bytes", "time", "rate") +
         row("loaded", figures.loaded_bytes, figures.load_seconds, "");
}

ordered_json side_json(const solo::SoloMachine& machine) {
  auto states = ordered_json::array();
  for (const auto& step : machine.states().steps())
    states.push_back({{"state", to_string(step.state)},
                      {"reached-in-ms", step.reached_in_ms},
                      {"stayed-ms", step.stayed_ms}});
  return {{"found-in", to_string(machine.found_in())},
          {"left-in", to_string(machine.device_state())},
          {"states", std::move(states)}};
}

ordered_json source_json(const solo::SoloMachine& machine, const Statistics& statistics) {
  const auto figures = machine.figures();
  auto rounds = ordered_json::array();
  for (const auto& round : figures.rounds)
    rounds.push_back({{"initial-bytes", round.initial_bytes},
                      {"dirty-bytes", round.dirty_bytes},
                      {"bytes", round.bytes},
                      {"seconds", round.seconds},
                      {"ran-dry", round.ran_dry}});
  const auto expected = expected_stop_ms(figures, statistics);
  const auto still = stood_still_ms(machine);
  auto object = side_json(machine);
  object["pre-copy"] = {{"rounds", figures.round_count},
                        {"bytes", figures.precopy_bytes},
                        {"seconds", figures.precopy_seconds},
                        {"first-rounds", std::move(rounds)}};
  object["stop-copy"] = {
      {"announced-bytes", figures.stop_told_bytes ? ordered_json(*figures.stop_told_bytes) : ordered_json()},
      {"bytes", figures.stop_bytes},
      {"seconds", figures.stop_seconds}};
  object["stop-time"] = {{"expected-ms", expected ? ordered_json(*expected) : ordered_json()},
                         {"measured-ms", statistics.downtime_ms},
                         {"stood-still-ms", still ? ordered_json(*still) : ordered_json()}};
  return object;
}

ordered_json destination_json(const solo::SoloMachine& machine) {
  const auto figures = machine.figures();
  auto object = side_json(machine);
  object["load"] = {{"bytes", figures.loaded_bytes}, {"seconds", figures.load_seconds}};
  return object;
}

}  // namespace

std::string report_text(const DeviceReport& report) {
  std::string text;
  if (report.source) text += source_text(report);
  if (report.destination) text += loaded_text(*report.destination);
  if (report.source) text += states_text("source", *report.source);
  if (report.destination) text += states_text("destination", *report.destination);
  return text;
}

ordered_json report_json(const DeviceReport& report) {
  ordered_json object{{"operation", report.operation}, {"status", to_string(report.status)}};
  if (!report.error.empty()) object["error"] = report.error;
  if (!report.place.empty()) object["place"] = report.place;
  object["seconds"] = report.seconds;
  if (report.source) {
    auto side = source_json(*report.source, report.statistics);
    object["source"] = std::move(side);
    object["stream"] = control::full_report(report.statistics);
  }
  if (report.destination) object["destination"] = destination_json(*report.destination);
  return object;
}

Status write_report(const DeviceReport& report, const std::string& path) {
  if (path.empty()) return {};
  std::ofstream file(path);
  file << report_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  file.close();
  if (!file) return fail(Errc::io, "cannot write the report to {}", path);
  return {};
}

std::string source_line(const solo::SoloMachine& source, const Statistics& statistics) {
  if (statistics.status == MigrationStatus::none) return {};
  const auto figures = source.figures();
  auto line = fmt::format("{}  {}", to_string(statistics.status), to_string(source.device_state()));
  if (figures.precopy_bytes > 0 || figures.round_count > 0)
    line += fmt::format("  round {}", figures.round_count + 1);
  line += fmt::format("  {} sent", size_text(static_cast<double>(statistics.transferred)));
  if (const auto rate = rate_text(figures.precopy_bytes, figures.precopy_seconds); !rate.empty())
    line += "  " + rate;
  if (statistics.status == MigrationStatus::active && figures.stop_expected_ms)
    line += fmt::format("  expected downtime {:.0f} ms", *figures.stop_expected_ms);
  return line;
}

std::string destination_line(const solo::SoloMachine& destination, MigrationStatus status) {
  if (status != MigrationStatus::active) return {};
  return fmt::format("loading  {}  {} loaded", to_string(destination.device_state()),
                     size_text(static_cast<double>(destination.figures().loaded_bytes)));
}

}  // namespace handover::cli
