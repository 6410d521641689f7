#include <CLI/CLI.hpp>

#include "cli/device_commands.h"
#include "cli/device_file.h"
#include "cli/device_landing.h"
#include "cli/device_open.h"
#include "cli/device_report.h"
#include "cli/device_target.h"
#include "cli/device_watch.h"
#include "cli/migration_progress.h"
#include "handover/base/log.h"

namespace handover::cli {
namespace {

struct LoadCommand {
  std::string target;
  std::string from;
  std::string listen;
  bool stay_stopped = false;
  std::string json_file;
};

bool is_socket(const Address& address) {
  return address.kind == Address::Kind::tcp || address.kind == Address::Kind::unix_socket;
}

Result<std::unique_ptr<Listener>> listen(const LoadCommand& command) {
  if (command.from.empty() == command.listen.empty())
    return fail(Errc::invalid_argument, "say either what to load or where to --listen");
  HANDOVER_ASSIGN(const auto address,
                  file_or_address(command.listen.empty() ? command.from : command.listen));
  if (!command.listen.empty() && !is_socket(address))
    return fail(Errc::invalid_argument, "nothing can be waited for at {}; write tcp:HOST:PORT or unix:PATH",
                command.listen);
  return listen_on(address);
}

/// Everything may be here, with the word to run still to come.  Without it the source has not let go.
Status give_up(solo::SoloMachine& machine) {
  if (machine.machine().running()) return fail(Errc::cancelled, "interrupted when the device ran already");
  HANDOVER_ASSIGN(const bool reset, machine.abandon_load());
  return fail(Errc::cancelled, "interrupted; the device {}; the source may be in doubt",
              reset ? "was reset" : "is as it was");
}

Status run(const LoadCommand& command) {
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  // First, since it may fail without a word to the device.
  HANDOVER_ASSIGN(auto listener, listen(command));
  const auto from = listener->address();
  HANDOVER_ASSIGN(const auto open, open_as_found(command.target));
  HANDOVER_ASSIGN(
      const auto machine,
      solo::SoloMachine::create(*open.device, *open.memory, {.side = solo::SoloOptions::Side::destination}));
  HANDOVER_ASSIGN(auto watch, DeviceWatch::create(interrupts));
  if (is_socket(from)) {
    fmt::print("waiting for a device on {}\n", from.to_string());
    std::fflush(stdout);
  }
  Destination::Options how;
  how.on_status = watch.observer();
  how.start_paused = command.stay_stopped;
  auto destination = std::make_unique<Destination>(machine->machine(), std::move(how));
  const auto begin = std::chrono::steady_clock::now();
  destination->start(std::move(listener));
  const bool ended = watch.until({.done = [&] { return is_final(destination->status()); },
                                  .line = [&] { return destination_line(*machine, destination->status()); },
                                  .cancel = [&] { return destination->cancel(); }});
  if (!ended) {
    destination.reset();
    return give_up(*machine);
  }
  DeviceReport report;
  report.operation = "load";
  report.place = from.to_string();
  report.destination = machine.get();
  report.status = destination->status();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  auto landed = land(*machine, *destination, command.stay_stopped);
  if (landed) {
    fmt::print("loaded {} from {}: {} in {:.2f} s; the device {}\n{}", command.target, from.to_string(),
               size_text(static_cast<double>(machine->figures().loaded_bytes)), report.seconds,
               command.stay_stopped ? "stays in STOP" : "runs", report_text(report));
  } else {
    report.error = landed.error().to_string();
  }
  auto written = write_report(report, command.json_file);
  if (!landed && !written) log::warn("{}", written.error().to_string());
  return landed ? written : landed;
}

}  // namespace

void add_device_load(CLI::App& device, int& exit_code) {
  auto options = std::make_shared<LoadCommand>();
  auto* command =
      device.add_subcommand("load", "Load a device's state into another one, which runs afterwards");
  command->add_option("TARGET", options->target, DeviceTarget::kHelp)->required();
  auto* from = command->add_option("FROM", options->from, "a file, or exec:COMMAND, which writes the state");
  command
      ->add_option("--listen", options->listen,
                   "wait there for `handover device migrate`: tcp:HOST:PORT (port 0: any) or unix:PATH")
      ->excludes(from);
  command->add_flag("--stay-stopped", options->stay_stopped,
                    "leave the device in STOP when it has been loaded");
  command->add_option("--json", options->json_file, "write the whole report there")->type_name("FILE");
  command->callback([options, &exit_code] {
    auto done = run(*options);
    if (done) return;
    fmt::print(stderr, "handover device load: {}\n", done.error().to_string());
    exit_code = 1;
  });
}

}  // namespace handover::cli
