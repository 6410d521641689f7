#pragma once

namespace CLI {
class App;
}

/// The commands of `handover device`, each of which adds itself below it; as the subcommands of commands.h.
namespace handover::cli {

void add_device_info(CLI::App& device, int& exit_code);
void add_device_load(CLI::App& device, int& exit_code);
void add_device_migrate(CLI::App& device, int& exit_code);
void add_device_save(CLI::App& device, int& exit_code);
void add_device_start(CLI::App& device, int& exit_code);

}  // namespace handover::cli
