#include <CLI/CLI.hpp>
#include <csignal>

#include "cli/commands.h"
#include "handover/base/log.h"

int main(int argc, char** argv) {
  using namespace handover;
  // A peer that goes away is an error of the write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  // So is a file that would become larger than the system allows.
  std::signal(SIGXFSZ, SIG_IGN);

  CLI::App app{"Live migration of virtual machines with VFIO devices", "handover"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "handover " HANDOVER_VERSION);
  std::string level = "warn";
  app.add_option("--log-level", level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->each([](const std::string& name) { log::set_level(name); });

  int exit_code = 0;
  cli::add_run(app, exit_code);
  cli::add_serve(app, exit_code);
  cli::add_migrate(app, exit_code);
  cli::add_snapshot(app, exit_code);
  cli::add_resolve(app, exit_code);
  cli::add_query(app, exit_code);
  cli::add_inspect(app, exit_code);
  cli::add_device(app, exit_code);
  cli::add_demo(app, exit_code);
  // CLI11 would only say that a subcommand is missing.
  if (argc > 1 && argv[1][0] != '-' &&
      app.get_subcommands([&](const CLI::App* known) { return known->check_name(argv[1]); }).empty()) {
    fmt::print(stderr, "handover: there is no subcommand `{}`; `handover --help` lists them\n", argv[1]);
    return 2;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_code;
}
