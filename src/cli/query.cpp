#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/query_text.h"
#include "control/qmp_client.h"

namespace handover::cli {

namespace {

struct QueryOptions {
  std::string qmp;
  std::string what = "status";
  bool json = false;
};

const std::map<std::string, std::string_view>& commands() {
  static const std::map<std::string, std::string_view> all = {{"status", "query-status"},
                                                              {"migrate", "query-migrate"},
                                                              {"report", "x-handover-report"},
                                                              {"blockers", "query-migrate"},
                                                              {"devices", "x-handover-query-devices"}};
  return all;
}

Result<int> query(const QueryOptions& options) {
  HANDOVER_ASSIGN(auto client, control::QmpClient::connect(options.qmp, {}));
  HANDOVER_ASSIGN(auto answer, client.execute(commands().at(options.what)));
  const bool blockers = options.what == "blockers";
  if (blockers) {
    HANDOVER_ASSIGN(answer, blocked_reasons(answer));
  }
  const int code = blockers && !answer.empty() ? 1 : 0;
  if (options.json || (!blockers && options.what != "devices")) {
    fmt::print("{}\n", answer.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return code;
  }
  HANDOVER_ASSIGN(const auto text, blockers ? blockers_text(answer) : devices_text(answer));
  fmt::print("{}", text);
  return code;
}

}  // namespace

void add_query(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<QueryOptions>();
  auto* command = app.add_subcommand("query", "Ask a running machine how it is");
  command->add_option("--qmp", options->qmp, "QMP socket of the machine")->required()->type_name("PATH");
  command
      ->add_option("what", options->what,
                   "status: run state; migrate: the migration's figures; report: all of them (as JSON); "
                   "blockers: what forbids a migration, one reason a line, exit code 1 if there is one; "
                   "devices: what each can do, and why one cannot migrate")
      ->check(CLI::IsMember(commands()))
      ->capture_default_str();
  command->add_flag("--json", options->json, "blockers and devices as JSON, too");
  command->callback([options, &exit_code] {
    auto done = query(*options);
    if (!done) fmt::print(stderr, "handover: {}\n", done.error().to_string());
    exit_code = done ? *done : 1;
  });
}

}  // namespace handover::cli
