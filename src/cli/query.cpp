#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "control/qmp_client.h"

namespace handover::cli {

namespace {

struct QueryOptions {
  std::string qmp;
  std::string what = "status";
};

Status query(const QueryOptions& options) {
  const auto* command = options.what == "status"    ? "query-status"
                        : options.what == "migrate" ? "query-migrate"
                                                    : "x-handover-report";
  HANDOVER_ASSIGN(auto client, control::QmpClient::connect(options.qmp, {}));
  HANDOVER_ASSIGN(const auto answer, client.execute(command));
  fmt::print("{}\n", answer.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return {};
}

}  // namespace

void add_query(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<QueryOptions>();
  auto* command =
      app.add_subcommand("query", "Ask a running machine how it is, and print its answer as JSON");
  command->add_option("--qmp", options->qmp, "QMP socket of the machine")->required()->type_name("PATH");
  command
      ->add_option("what", options->what,
                   "status: run state; migrate: the migration's figures; report: all of them")
      ->check(CLI::IsMember({"status", "migrate", "report"}))
      ->capture_default_str();
  command->callback([options, &exit_code] {
    auto done = query(*options);
    if (!done) fmt::print(stderr, "handover: {}\n", done.error().to_string());
    exit_code = done ? 0 : 1;
  });
}

}  // namespace handover::cli
