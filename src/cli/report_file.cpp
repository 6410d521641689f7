#include "cli/report_file.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace handover::cli {

using nlohmann::json;

Status write_report(control::QmpClient& client, const std::string& path, const CancelToken& cancel) {
  if (path.empty()) return {};
  HANDOVER_ASSIGN(const auto report, client.execute("x-handover-report", json::object(), cancel));
  std::ofstream file(path);
  file << report.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
  file.close();
  if (!file) return fail(Errc::io, "cannot write the report to {}", path);
  return {};
}

}  // namespace handover::cli
