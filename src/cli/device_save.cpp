#include <CLI/CLI.hpp>

#include "cli/device_commands.h"
#include "cli/device_file.h"
#include "cli/device_open.h"
#include "cli/device_options.h"
#include "cli/device_report.h"
#include "cli/device_target.h"
#include "cli/device_watch.h"
#include "cli/migration_progress.h"
#include "handover/base/log.h"
#include "handover/migration/source.h"

namespace handover::cli {
namespace {

struct SaveOptions {
  std::string target;
  std::string to;
  DeviceReadOptions read;
  bool stay_stopped = false;
  std::string json_file;
};

/// Runs the migration to its end.  Afterwards the device is in STOP if it was saved, and where it was before
/// if it was not.
DeviceReport save(solo::SoloMachine& machine, const Address& to, const SaveOptions& options,
                  DeviceWatch& watch) {
  Source::Options how;
  how.parameters = machine.parameters(options.read.parameters());
  how.on_status = watch.observer();
  Source source(machine.machine(), nullptr, std::move(how));
  source.start(to);
  const bool ended = watch.until({.done = [&] { return is_final(source.status()); },
                                  .line = [&] { return source_line(machine, source.statistics()); },
                                  .cancel = [&] { return source.cancel(); }});
  DeviceReport report;
  report.operation = "save";
  report.source = &machine;
  if (!ended) {
    report.status = MigrationStatus::cancelled;
    report.error = "interrupted";
    return report;
  }
  report.statistics = source.statistics();
  report.status = source.status();
  report.error = report.statistics.error;
  report.seconds = static_cast<double>(report.statistics.total_ms) / 1000;
  // What a command did with a state cannot make the device run somewhere else.
  if (report.status == MigrationStatus::in_doubt) report.status = MigrationStatus::failed;
  return report;
}

Status judge(const DeviceReport& report, const SaveOptions& options, const solo::SoloMachine& machine) {
  if (report.status == MigrationStatus::completed) {
    std::printf("saved %s to %s: %s in %.2f s; the device %s\n%s", options.target.c_str(), options.to.c_str(),
                size_text(static_cast<double>(report.statistics.transferred)).c_str(), report.seconds,
                whereabouts(machine).c_str(), report_text(report).c_str());
    return {};
  }
  return fail(report.status == MigrationStatus::cancelled ? Errc::cancelled : Errc::state,
              "{}; the device {}",
              report.status == MigrationStatus::cancelled ? "cancelled, nothing was saved" : report.error,
              whereabouts(machine));
}

Status run(const SaveOptions& options) {
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  HANDOVER_ASSIGN(auto file, SaveFile::create(options.to));
  HANDOVER_ASSIGN(const auto open, open_as_found(options.target));
  HANDOVER_ASSIGN(const auto machine,
                  solo::SoloMachine::create(*open.device, *open.memory, options.read.solo()));
  HANDOVER_ASSIGN(auto watch, DeviceWatch::create(interrupts));
  auto report = save(*machine, file.address(), options, watch);
  report.place = options.to;
  const bool ran = machine->found_in() == vfio::DeviceState::running;
  const bool saved = report.status == MigrationStatus::completed;
  Status running;
  if (ran && !(saved && options.stay_stopped)) running = machine->run();
  // The device does not wait for the file's name.
  if (saved) {
    if (auto kept = file.keep(); !kept) {
      report.status = MigrationStatus::failed;
      report.error = kept.error().to_string();
      if (options.stay_stopped && ran) running = machine->run();
    }
  }
  auto verdict = judge(report, options, *machine);
  auto written = write_report(report, options.json_file);
  if (!verdict && !written) log::warn("{}", written.error().to_string());
  if (!running) return std::unexpected(std::move(running).error().with_context("after the save"));
  return verdict ? written : verdict;
}

}  // namespace

void add_device_save(CLI::App& device, int& exit_code) {
  auto options = std::make_shared<SaveOptions>();
  auto* command =
      device.add_subcommand("save", "Save a device's state to a file; the device runs on afterwards");
  command->add_option("TARGET", options->target, DeviceTarget::kHelp)->required();
  command->add_option("FILE", options->to, "a file, or exec:COMMAND, which reads the state")->required();
  options->read.add_to(*command);
  command->add_flag("--stay-stopped", options->stay_stopped,
                    "leave the device in STOP when it has been saved");
  command->add_option("--json", options->json_file, "write the whole report there")->type_name("FILE");
  command->callback([options, &exit_code] {
    auto done = run(*options);
    if (done) return;
    fmt::print(stderr, "handover device save: {}\n", done.error().to_string());
    exit_code = 1;
  });
}

}  // namespace handover::cli
