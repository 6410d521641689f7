#include <nlohmann/json.hpp>

#include "handover/check/report.h"

namespace handover::check {
namespace {

using json = nlohmann::ordered_json;

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// As programs like them.
const char* word(Verdict verdict) {
  switch (verdict) {
    case Verdict::passed:
      return "passed";
    case Verdict::warned:
      return "warned";
    case Verdict::failed:
      return "failed";
    case Verdict::not_offered:
      return "not-offered";
    case Verdict::not_run:
      return "not-run";
  }
  return "unknown";
}

}  // namespace

std::string to_json(const Report& report) {
  json object;
  object["device"] = report.device;
  object["migration-features"] = report.features;
  object["dma-log"] = report.dma_log;
  object["reset"] = report.resettable;
  object["exclusive"] = report.exclusive;
  object["green"] = report.green();
  object["device-state"] = report.state;
  if (report.ended_early) object["ended-early"] = *report.ended_early;
  object["seconds"] = seconds(report.took);
  auto& totals = object["summary"];
  for (const auto verdict :
       {Verdict::passed, Verdict::warned, Verdict::failed, Verdict::not_offered, Verdict::not_run})
    totals[word(verdict)] = report.count(verdict);
  auto& checks = object["checks"] = json::array();
  for (const auto& [check, finding, took] : report.entries) {
    json entry = {
        {"id", check.id},         {"group", check.group()},       {"demands", check.what},
        {"clause", check.clause}, {"exclusive", check.exclusive}, {"result", word(finding.verdict)}};
    if (!finding.why.empty()) entry["why"] = finding.why;
    entry["seconds"] = seconds(took);
    checks.push_back(std::move(entry));
  }
  // A device's name or message may be no UTF-8.
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace handover::check
