#include "cli/migration_progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

namespace handover::cli {

using nlohmann::json;

namespace {

constexpr std::chrono::seconds kBetweenLines{1};

double number(const json& object, const char* name) {
  if (!object.is_object()) return 0;
  const auto at = object.find(name);
  return at != object.end() && at->is_number() ? at->get<double>() : 0;
}

json part(const json& object, const char* name) {
  const auto at = object.find(name);
  return at == object.end() ? json::object() : *at;
}

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string text_of(const json& answer, const char* name, std::string_view otherwise) {
  const auto at = answer.find(name);
  return at != answer.end() && at->is_string() ? at->get<std::string>() : std::string(otherwise);
}

std::string size_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit)
    bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string progress_text(const json& figures, std::size_t width) {
  auto line = text_of(figures, "status");
  const auto ram = part(figures, "ram");
  const double total = number(ram, "total");
  // Before the first pass nothing has been counted yet.
  if (total > 0 && number(ram, "dirty-sync-count") > 0 && text_of(figures, "status") != "setup") {
    const double left = std::clamp(number(ram, "remaining") / total, 0.0, 1.0);
    line += fmt::format("  {:.0f}% of {}", 100 * (1 - left), size_text(total));
    line += fmt::format("  {}/s", size_text(number(ram, "mbps") * 1e6 / 8));
    // A machine that stands still dirties nothing and passes once.
    if (figures.contains("x-handover-snapshot")) return line.substr(0, width);
    line +=
        fmt::format("  dirty {}/s", size_text(number(ram, "dirty-pages-rate") * number(ram, "page-size")));
    line += fmt::format("  pass {:.0f}", number(ram, "dirty-sync-count"));
    if (figures.contains("expected-downtime"))
      line += fmt::format("  expected downtime {:.0f} ms", number(figures, "expected-downtime"));
  }
  return line.substr(0, width);
}

std::string summary_text(const json& figures, std::string_view address) {
  const auto ram = part(figures, "ram");
  return fmt::format("migrated to {} in {:.2f} s, downtime {:.0f} ms, {} sent in {:.0f} passes", address,
                     number(figures, "total-time") / 1000, number(figures, "downtime"),
                     size_text(number(ram, "transferred")), number(ram, "dirty-sync-count"));
}

std::string tracking_text(const json& figures) {
  const auto tracking = part(part(figures, "vfio"), "x-handover-dirty-tracking");
  std::string text;
  if (!tracking.is_array()) return text;
  for (const auto& each : tracking)
    text += fmt::format("\n  {}: {}", text_of(each, "who"), text_of(each, "reason"));
  return text;
}

std::string snapshot_summary(const json& figures, std::string_view path) {
  return fmt::format("saved to {} in {:.2f} s, of which the guest stood still {:.0f} ms, {} written", path,
                     number(figures, "total-time") / 1000, number(figures, "downtime"),
                     size_text(number(part(figures, "ram"), "transferred")));
}

MigrationProgress::MigrationProgress() : terminal_(::isatty(STDOUT_FILENO) == 1) {
}

void MigrationProgress::show(const json& figures) {
  if (terminal_) {
    // One column stays free: some terminals wrap when the last one is written.
    const auto width = std::max<std::size_t>(terminal_width(), 20) - 1;
    fmt::print("\r\x1b[K{}", progress_text(figures, width));
    std::fflush(stdout);
    drawn_ = true;
    return;
  }
  const auto step =
      fmt::format("{} {}", text_of(figures, "status"), number(part(figures, "ram"), "dirty-sync-count"));
  const auto now = std::chrono::steady_clock::now();
  if (step == last_step_ || now - last_line_ < kBetweenLines) return;
  last_step_ = step;
  last_line_ = now;
  say(progress_text(figures, std::string::npos));
}

void MigrationProgress::say(std::string_view line) {
  clear();
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

void MigrationProgress::clear() {
  if (!drawn_) return;
  fmt::print("\r\x1b[K");
  std::fflush(stdout);
  drawn_ = false;
}

}  // namespace handover::cli
