#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "control/qmp_client.h"

namespace handover::cli {

namespace {

struct ResolveOptions {
  std::string qmp;
  bool resume = false;
  bool abandon = false;
};

Status resolve(const ResolveOptions& options) {
  HANDOVER_ASSIGN(auto client, control::QmpClient::connect(options.qmp, {}));
  HANDOVER_TRY(client.execute("x-handover-resolve", {{"resume", options.resume}}));
  fmt::print("{}\n",
             options.resume ? "the machine is back on this side" : "the machine has been given up here");
  return {};
}

}  // namespace

void add_resolve(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<ResolveOptions>();
  auto* command = app.add_subcommand(
      "resolve", "Settle a migration in doubt, after looking whether the guest runs at its destination");
  command->add_option("--qmp", options->qmp, "QMP socket of the source")->required()->type_name("PATH");
  auto* decision = command->add_option_group("decision", "What is true");
  decision->add_flag("--resume", options->resume, "it does not run there and never will: run it here again");
  decision->add_flag("--abandon", options->abandon, "it runs there: give it up here for good");
  decision->require_option(1);
  command->callback([options, &exit_code] {
    auto done = resolve(*options);
    if (!done) fmt::print(stderr, "handover: {}\n", done.error().to_string());
    exit_code = done ? 0 : 1;
  });
}

}  // namespace handover::cli
