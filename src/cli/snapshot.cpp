#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/file_option.h"
#include "cli/interrupts.h"
#include "cli/migration_progress.h"
#include "cli/migration_watch.h"
#include "cli/report_file.h"
#include "control/qmp_client.h"
#include "handover/base/log.h"

namespace handover::cli {

using control::QmpClient;
using nlohmann::json;

namespace {

struct SnapshotOptions {
  std::string qmp;
  std::string file;
  bool mapped_ram = false;
  bool direct_io = false;
  bool stay_stopped = false;
  std::string json_file;
};

/// The machine has another working directory than the person who types.
Result<std::string> absolute_path(const std::string& file) {
  HANDOVER_ASSIGN(const auto address, file_address(file));
  if (address.offset != 0)
    return fail(Errc::invalid_argument,
                "a snapshot is a file of its own; `offset=` is for migrate file:PATH");
  std::error_code error;
  const auto path = std::filesystem::absolute(address.path, error);
  if (error) return fail(Errc::io, "cannot tell where {} is: {}", address.path, error.message());
  return path.string();
}

/// What the guest does now, as the machine itself says.
std::string whereabouts(QmpClient& client, const CancelToken& cancel) {
  auto status = client.execute("query-status", json::object(), cancel);
  if (!status) return "what became of the guest is unknown: " + status.error().to_string();
  const auto state = text_of(*status, "status", "unknown");
  return state == "running" ? "the guest runs on" : fmt::format("the guest is in run state {}", state);
}

Error broken_off(Error why, const SnapshotOptions& options) {
  if (control::is_answer(why)) return why;
  if (why.code() == Errc::cancelled)
    return {Errc::cancelled, fmt::format("stopped watching; the snapshot may go on: `handover query --qmp {} "
                                         "migrate` tells",
                                         options.qmp)};
  return std::move(why).with_context("lost sight of the machine");
}

Status judge(QmpClient& client, const json& figures, const MigrationWatch& watch, const std::string& path,
             MigrationProgress& progress, const CancelToken& cancel) {
  progress.clear();
  const auto status = text_of(figures, "status");
  const auto where = whereabouts(client, cancel);
  if (status == "completed") {
    if (!watch.too_late().empty()) progress.say("it was too late to cancel: the snapshot is whole");
    progress.say(fmt::format("{}; {}", snapshot_summary(figures, path), where));
    return {};
  }
  if (status == "cancelled")
    return fail(Errc::cancelled, "the snapshot was cancelled and leaves no file; {}", where);
  return fail(Errc::state, "the snapshot failed: {}; {}",
              text_of(figures, "error-desc", "the machine gave no reason"), where);
}

Status take_snapshot(const SnapshotOptions& options) {
  HANDOVER_ASSIGN(const auto path, absolute_path(options.file));
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  constexpr std::chrono::seconds kGreetingTime{30};
  HANDOVER_ASSIGN(auto client, QmpClient::connect(options.qmp, interrupts.first(),
                                                  std::chrono::steady_clock::now() + kGreetingTime));
  json arguments{{"filename", path}, {"stop", options.stay_stopped}};
  if (options.mapped_ram) arguments["mapped-ram"] = true;
  if (options.direct_io) arguments["direct-io"] = true;
  HANDOVER_TRY(interrupts.first().check());
  // From here on an interrupt has something to cancel, and only the machine can do that.
  auto started = client.execute("x-handover-snapshot", arguments, interrupts.again());
  if (!started) return std::unexpected(broken_off(std::move(started).error(), options));
  MigrationProgress progress;
  MigrationWatch watch(client, interrupts, progress);
  auto figures = watch.to_the_end();
  progress.clear();
  if (!figures) return std::unexpected(broken_off(std::move(figures).error(), options));
  auto verdict = judge(client, *figures, watch, path, progress, interrupts.again());
  auto written = write_report(client, options.json_file, interrupts.again());
  if (!verdict && !written) log::warn("{}", written.error().to_string());
  return verdict ? written : verdict;
}

}  // namespace

void add_snapshot(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<SnapshotOptions>();
  auto* command = app.add_subcommand("snapshot", "Save a machine to a file and let it go on");
  command->add_option("--qmp", options->qmp, "QMP socket of the machine")->required()->type_name("PATH");
  command->add_option("FILE", options->file, "what to write; `handover run --restore FILE` reads it")
      ->required();
  auto* mapped = command->add_flag("--mapped-ram", options->mapped_ram,
                                   "every page at a place of its own in the file, zero pages as holes");
  command->add_flag("--direct-io", options->direct_io, "write pages past the host's page cache")
      ->needs(mapped);
  command->add_flag("--stay-stopped", options->stay_stopped, "leave the guest paused");
  command->add_option("--json", options->json_file, "write the whole report there")->type_name("FILE");
  command->callback([options, &exit_code] {
    auto done = take_snapshot(*options);
    if (!done) fmt::print(stderr, "handover: {}\n", done.error().to_string());
    exit_code = done ? 0 : 1;
  });
}

}  // namespace handover::cli
