#include <algorithm>

#include "handover/check/report.h"

namespace handover::check {
namespace {

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// Text and attribute values alike.  XML 1.0 has no way to write most control characters, and bytes above 0x7f
// may be no UTF-8.
std::string escaped(std::string_view text) {
  std::string clean;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&')
      clean += "&amp;";
    else if (c == '<')
      clean += "&lt;";
    else if (c == '>')
      clean += "&gt;";
    else if (c == '"')
      clean += "&quot;";
    else if (c == '\t' || c == '\n' || c == '\r')
      clean += fmt::format("&#{};", byte);
    else if (byte < 0x20 || byte >= 0x7f)
      clean += '?';
    else
      clean += c;
  }
  return clean;
}

struct Totals {
  std::size_t tests = 0, failures = 0, skipped = 0;
  std::chrono::nanoseconds took{0};

  void add(const Entry& entry) {
    const auto verdict = entry.finding.verdict;
    ++tests;
    failures += verdict == Verdict::failed;
    skipped += verdict == Verdict::not_offered || verdict == Verdict::not_run;
    took += entry.took;
  }
  std::string attributes(std::size_t errors = 0) const {
    return fmt::format(R"(tests="{}" failures="{}" errors="{}" skipped="{}" time="{:.6f}")", tests + errors,
                       failures, errors, skipped, seconds(took));
  }
};

std::string test_case(const Entry& entry) {
  const auto& [check, finding, took] = entry;
  auto text = fmt::format(R"(    <testcase classname="handover.check.{}" name="{}" time="{:.6f}">)",
                          escaped(check.group()), escaped(check.id), seconds(took));
  switch (finding.verdict) {
    case Verdict::failed:
      text += fmt::format("\n      <failure message=\"{}\">{}\n{}</failure>", escaped(finding.why),
                          escaped(check.what), escaped(check.clause));
      break;
    case Verdict::not_offered:
    case Verdict::not_run:
      text += fmt::format("\n      <skipped message=\"{}: {}\"/>", to_string(finding.verdict),
                          escaped(finding.why));
      break;
    case Verdict::warned:
      text += fmt::format("\n      <system-out>warning: {}</system-out>", escaped(finding.why));
      break;
    case Verdict::passed:
      if (!finding.why.empty())
        text += fmt::format("\n      <system-out>{}</system-out>", escaped(finding.why));
      break;
  }
  return text + "\n    </testcase>\n";
}

}  // namespace

std::string to_junit(const Report& report) {
  Totals all;
  std::string suites;
  // The groups stand together, in the catalogue as in a report.
  for (auto next = report.entries.begin(); next != report.entries.end();) {
    const auto group = next->check.group();
    Totals totals;
    std::string cases;
    for (; next != report.entries.end() && next->check.group() == group; ++next) {
      totals.add(*next);
      all.add(*next);
      cases += test_case(*next);
    }
    suites += fmt::format("  <testsuite name=\"{}\" {}>\n{}  </testsuite>\n", escaped(group),
                          totals.attributes(), cases);
  }
  std::size_t errors = 0;
  if (report.ended_early) {
    errors = 1;
    suites += fmt::format(
        "  <testsuite name=\"run\" tests=\"1\" failures=\"0\" errors=\"1\" skipped=\"0\" time=\"0\">\n"
        "    <testcase classname=\"handover.check.run\" name=\"run.to-the-end\" time=\"0\">\n"
        "      <error message=\"{}\"/>\n    </testcase>\n  </testsuite>\n",
        escaped(*report.ended_early));
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" {}>\n{}</testsuites>\n",
      escaped("handover check " + report.device), all.attributes(errors), suites);
}

}  // namespace handover::check
