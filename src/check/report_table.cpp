#include <fmt/ranges.h>

#include <algorithm>

#include "handover/check/report.h"

namespace handover::check {
namespace {

constexpr Verdict kVerdicts[] = {Verdict::passed, Verdict::warned, Verdict::failed, Verdict::not_offered,
                                 Verdict::not_run};

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

std::string features_text(std::uint64_t features) {
  std::vector<std::string_view> names;
  if (features & vfio::kMigrationStopCopy) names.push_back("stop-copy");
  if (features & vfio::kMigrationP2p) names.push_back("p2p");
  if (features & vfio::kMigrationPreCopy) names.push_back("pre-copy");
  return fmt::format("{:#x} ({})", features,
                     names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
}

std::vector<std::string> groups_of(const Report& report) {
  std::vector<std::string> groups;
  for (const auto& entry : report.entries)
    if (const auto group = entry.check.group(); std::ranges::find(groups, group) == groups.end())
      groups.push_back(group);
  return groups;
}

// What a device or its server said may hold anything; a terminal must not obey it.
std::string printable(std::string_view text) {
  std::string clean;
  for (const char c : text)
    clean += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return clean;
}

/// Entries of a group that say the same.
struct Line {
  Verdict verdict;
  std::string why;
  std::vector<std::string> ids;
};

std::vector<Line> lines_of(const Report& report, const std::string& group) {
  std::vector<Line> lines;
  for (const auto& entry : report.entries) {
    const auto& [verdict, why] = entry.finding;
    if (entry.check.group() != group || (verdict == Verdict::passed && why.empty())) continue;
    const auto alike = std::ranges::find_if(
        lines, [&](const Line& line) { return line.verdict == verdict && line.why == why; });
    if (alike == lines.end())
      lines.push_back({verdict, why, {entry.check.id}});
    else
      alike->ids.push_back(entry.check.id);
  }
  std::ranges::stable_sort(lines, [](const Line& a, const Line& b) {
    return (a.verdict == Verdict::failed) > (b.verdict == Verdict::failed);
  });
  return lines;
}

std::string who(const std::vector<std::string>& ids) {
  constexpr std::size_t kNamed = 3;
  if (ids.size() <= kNamed) return fmt::format("{}", fmt::join(ids, ", "));
  return fmt::format("{} and {} more", ids.front(), ids.size() - 1);
}

}  // namespace

std::string summary(const Report& report) {
  auto text = fmt::format("{} checks:", report.entries.size());
  const char* comma = "";
  for (const auto verdict : kVerdicts)
    if (const auto count = report.count(verdict); count > 0 || verdict == Verdict::failed) {
      text += fmt::format("{} {} {}", comma, count, to_string(verdict));
      comma = ",";
    }
  return text + fmt::format("; {:.1f} s", seconds(report.took));
}

std::string to_table(const Report& report) {
  auto text = fmt::format("device {}: migration features {}, {}, {}\n\n", printable(report.device),
                          features_text(report.features), report.dma_log ? "DMA log" : "no DMA log",
                          report.resettable ? "reset" : "no reset");
  text += fmt::format("{:<10} {:>7} {:>7} {:>7} {:>12} {:>8}\n", "", "passed", "warned", "failed",
                      "not offered", "not run");
  for (const auto& group : groups_of(report)) {
    const auto count = [&](Verdict verdict) {
      return std::ranges::count_if(report.entries, [&](const Entry& entry) {
        return entry.check.group() == group && entry.finding.verdict == verdict;
      });
    };
    text += fmt::format("{:<10} {:>7} {:>7} {:>7} {:>12} {:>8}\n", group, count(Verdict::passed),
                        count(Verdict::warned), count(Verdict::failed), count(Verdict::not_offered),
                        count(Verdict::not_run));
    for (const auto& line : lines_of(report, group)) {
      const auto kind = line.verdict == Verdict::failed   ? "FAILED "
                        : line.verdict == Verdict::warned ? "warning "
                                                          : "";
      text += fmt::format("    {}{}: {}\n", kind, who(line.ids), printable(line.why));
    }
  }
  text += "\n";
  if (report.ended_early) text += fmt::format("ended early: {}\n", printable(*report.ended_early));
  text += fmt::format("state of the device: {}\n{}\n", printable(report.state), summary(report));
  return text;
}

std::string to_markdown(const std::vector<Description>& checks) {
  std::string text, group;
  for (const auto& check : checks) {
    if (check.group() != group) {
      group = check.group();
      text += fmt::format("{}### {}\n\n| check | demands | rests on |\n| --- | --- | --- |\n",
                          text.empty() ? "" : "\n", group);
    }
    text += fmt::format("| `{}`{} | {} | {} |\n", check.id, check.exclusive ? " (E)" : "", check.what,
                        check.clause);
  }
  return text;
}

}  // namespace handover::check
