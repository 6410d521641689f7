#pragma once

namespace CLI {
class App;
}

/// The subcommands.  Each adds itself to the app; its callback runs it and leaves what the process returns
/// in `exit_code`: 0 success, 1 failure (one line on standard error says what and how to mend it).  Usage
/// errors end with 2, by main.
namespace handover::cli {

void add_demo(CLI::App& app, int& exit_code);
void add_device(CLI::App& app, int& exit_code);
void add_inspect(CLI::App& app, int& exit_code);
void add_migrate(CLI::App& app, int& exit_code);
void add_query(CLI::App& app, int& exit_code);
void add_resolve(CLI::App& app, int& exit_code);
void add_run(CLI::App& app, int& exit_code);
void add_snapshot(CLI::App& app, int& exit_code);
void add_serve(CLI::App& app, int& exit_code);

}  // namespace handover::cli
