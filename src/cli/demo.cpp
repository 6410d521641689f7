#include <CLI/CLI.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cli/commands.h"
#include "cli/demo_report.h"
#include "cli/demo_stage.h"
#include "cli/interrupts.h"
#include "cli/migration_watch.h"
#include "cli/size_option.h"
#include "handover/base/units.h"

namespace handover::cli {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;

/// Lets time pass while the guest works.
Status work_for(double seconds, const CancelToken& cancel) {
  const auto until = steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(
                                               std::chrono::duration<double>(seconds));
  auto woken = wait_fd(-1, 0, cancel, until);
  if (!woken && woken.error().code() != Errc::timeout) return std::unexpected(std::move(woken).error());
  return {};
}

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

/// The destination needs no setting: the stream says how many channels there are.
Status use_channels(control::QmpClient& source, std::uint64_t channels, const CancelToken& cancel) {
  if (channels == 0) return {};
  HANDOVER_TRY(source.execute("migrate-set-parameters", {{"multifd-channels", channels}}, cancel));
  HANDOVER_TRY(source.execute("migrate-set-capabilities",
                              {{"capabilities", json::array({{{"capability", "multifd"}, {"state", true}}})}},
                              cancel));
  return {};
}

Result<DemoFigures> perform(const DemoOptions& options, const std::filesystem::path& folder,
                            const Interrupts& interrupts) {
  const auto cancel = interrupts.first();
  DemoFigures figures;
  say(fmt::format("Starting {} device server{} and a machine with {} MiB of RAM on each side.",
                  options.devices, options.devices == 1 ? "" : "s", options.memory / MiB));
  HANDOVER_ASSIGN(auto source, DemoSide::start("source", folder, options, false, cancel));
  HANDOVER_ASSIGN(auto destination, DemoSide::start("destination", folder, options, true, cancel));
  say(fmt::format("The guest works for {} s: it writes {} MiB/s and gives each device {} jobs a second.",
                  options.work_before_s, options.dirty_rate / MiB, options.job_rate));
  HANDOVER_TRY(work_for(options.work_before_s, cancel));

  HANDOVER_ASSIGN(auto address, destination.listening_on(cancel));
  HANDOVER_TRY(source.qmp().execute(
      "migrate-set-parameters",
      {{"max-bandwidth", options.max_bandwidth}, {"downtime-limit", options.downtime_limit_ms}}, cancel));
  HANDOVER_TRY(use_channels(source.qmp(), options.channels, cancel));
  HANDOVER_ASSIGN(figures.before, source.guest(cancel));
  say(fmt::format("Migrating to {}.", address));
  HANDOVER_TRY(source.qmp().execute("migrate", {{"uri", address}}, cancel));
  {
    MigrationProgress progress;
    HANDOVER_TRY(MigrationWatch(source.qmp(), interrupts, progress).to_the_end());
  }
  HANDOVER_ASSIGN(figures.arrived, destination.guest(cancel));
  HANDOVER_ASSIGN(figures.report, source.qmp().execute("x-handover-report", json::object(), cancel));
  if (figures.report.at("status") != "completed") return figures;

  say(fmt::format("The guest works for {} s on the destination, then everything is verified.",
                  options.work_after_s));
  HANDOVER_TRY(work_for(options.work_after_s, cancel));
  HANDOVER_ASSIGN(figures.after, destination.guest(cancel));
  auto verified = destination.qmp().execute("x-handover-verify", json::object(), cancel);
  if (verified)
    figures.verification = std::move(*verified);
  else
    figures.verification_error = verified.error().to_string();
  HANDOVER_TRY(destination.qmp().execute("stop", json::object(), cancel));
  HANDOVER_ASSIGN(figures.after, destination.guest(cancel));
  HANDOVER_TRY(source.end(cancel));
  HANDOVER_TRY(destination.end(cancel));
  return figures;
}

int demonstrate(const DemoOptions& options) {
  auto interrupts = Interrupts::watch();
  if (!interrupts) {
    fmt::print(stderr, "handover demo: {}\n", interrupts.error().to_string());
    return 1;
  }
  auto folder = ScratchFolder::create(options.keep_logs);
  if (!folder) {
    fmt::print(stderr, "handover demo: {}\n", folder.error().to_string());
    return 1;
  }
  if (options.keep_logs) say(fmt::format("Logs stay in {}.", folder->path().string()));
  std::optional<DemoFigures> yardstick;
  if (options.compare) {
    auto alone = options;
    alone.devices = 1;
    const auto place = folder->path() / "one-device";
    std::error_code failed;
    std::filesystem::create_directory(place, failed);
    auto found = perform(alone, place, *interrupts);
    if (!found) {
      fmt::print(stderr, "handover demo: with one device: {}\n", found.error().to_string());
      return 1;
    }
    yardstick = std::move(*found);
  }
  auto figures = perform(options, folder->path(), *interrupts);
  if (!figures) {
    fmt::print(stderr, "handover demo: {}\n", figures.error().to_string());
    return 1;
  }
  fmt::print("{}", demo_table(*figures));
  if (yardstick) fmt::print("{}", comparison(*figures, *yardstick, options.devices));
  if (!options.json_path.empty()) {
    std::ofstream file(options.json_path);
    file << demo_json(*figures).dump(2) << '\n';
    if (!file.flush()) {
      fmt::print(stderr, "handover demo: cannot write {}\n", options.json_path);
      return 1;
    }
  }
  if (const auto failure = figures->first_failure(); !failure.empty()) {
    fmt::print(stderr, "handover demo: {}\n", failure);
    return 1;
  }
  fmt::print("\nEverything arrived: no mismatch, no interrupt lost, every job done exactly once.\n");
  return 0;
}

}  // namespace

void add_demo(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "demo",
      "Migrate a machine with a working device between two processes on this host, and verify all of it");
  auto options = std::make_shared<DemoOptions>();
  options->memory = 1 * GiB;
  options->device_memory = 256 * MiB;
  options->dirty_rate = 200 * MiB;
  options->job_rate = 500;
  options->seed = 1;
  options->work_before_s = 3;
  options->work_after_s = 2;
  options->downtime_limit_ms = 300;
  const SizeRange any{.least = 0, .most = UINT64_MAX};
  command->add_option("--memory", options->memory, "guest RAM")->transform(size_in(any))->default_str("1G");
  command->add_option("--device-memory", options->device_memory, "memory of each device")
      ->transform(size_in(any))
      ->default_str("256M");
  command->add_option("--devices", options->devices, "accelerators")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  command
      ->add_option("--channels", options->channels,
                   "connections for RAM and device state (multifd); 0: the main one alone")
      ->check(CLI::Range(0, 255))
      ->capture_default_str();
  command->add_flag(
      "--viommu", options->viommu,
      "give the guest an IOMMU, in which it maps every buffer for its device and unmaps it again");
  command->add_option("--load-cost", options->load_cost,
                      "simulated time that each device takes to load its state, such as 70ms");
  command->add_flag("--compare", options->compare,
                    "do the same with one device first, and say how much longer the guest stood still");
  command->add_option("--dirty-rate", options->dirty_rate, "bytes a second that the guest writes")
      ->transform(size_in(any))
      ->default_str("200M");
  command->add_option("--job-rate", options->job_rate, "jobs a second for each device")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of everything the guest writes")->capture_default_str();
  command->add_option("--before", options->work_before_s, "seconds of work before the migration")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->add_option("--after", options->work_after_s, "seconds of work after it")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->add_option("--max-bandwidth", options->max_bandwidth, "bytes a second; 0: no limit")
      ->transform(size_in(any))
      ->capture_default_str();
  command->add_option("--downtime-limit", options->downtime_limit_ms, "milliseconds")->capture_default_str();
  command->add_option("--json", options->json_path, "write the figures to this file too");
  command->add_flag("--keep", options->keep_logs, "keep the logs of all processes");
  command->callback([options, &exit_code] {
    options->program = std::filesystem::read_symlink("/proc/self/exe").string();
    exit_code = demonstrate(*options);
  });
}

}  // namespace handover::cli
