#include <CLI/CLI.hpp>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/migration_progress.h"
#include "cli/migration_watch.h"
#include "cli/report_file.h"
#include "cli/size_option.h"
#include "control/qmp_client.h"
#include "handover/base/log.h"
#include "handover/channel/address.h"

namespace handover::cli {

using control::QmpClient;
using nlohmann::json;

namespace {

struct MigrateOptions {
  std::string qmp;
  std::string address;
  std::optional<std::uint64_t> max_bandwidth;
  std::optional<std::uint64_t> downtime_limit;
  std::optional<std::uint64_t> avail_switchover_bandwidth;
  std::optional<std::uint64_t> multifd_channels;
  bool switchover_ack = false;
  bool no_return_path = false;
  bool pause_before_switchover = false;
  bool detach = false;
  std::string json_file;
};

/// A failure that the machine answered with is a sentence already; one of the connection leaves open what
/// became of the migration.
Error broken_off(Error why, const MigrateOptions& options) {
  if (control::is_answer(why)) return why;
  if (why.code() == Errc::cancelled)
    return {Errc::cancelled,
            fmt::format("stopped watching; the migration may go on: `handover query --qmp {} "
                        "migrate` tells",
                        options.qmp)};
  return std::move(why).with_context(
      fmt::format("lost sight of the machine; look whether the guest runs at {}", options.address));
}

Status configure(QmpClient& client, const MigrateOptions& options, const CancelToken& cancel) {
  auto parameters = json::object();
  if (options.max_bandwidth) parameters["max-bandwidth"] = *options.max_bandwidth;
  if (options.downtime_limit) parameters["downtime-limit"] = *options.downtime_limit;
  if (options.avail_switchover_bandwidth)
    parameters["avail-switchover-bandwidth"] = *options.avail_switchover_bandwidth;
  if (options.multifd_channels) parameters["multifd-channels"] = *options.multifd_channels;
  if (!parameters.empty()) HANDOVER_TRY(client.execute("migrate-set-parameters", parameters, cancel));

  auto list = json::array();
  auto set = [&list](const char* name, bool state) {
    list.push_back({{"capability", name}, {"state", state}});
  };
  set("events", true);
  set("return-path", !options.no_return_path);
  set("multifd", options.multifd_channels.has_value());
  set("switchover-ack", options.switchover_ack);
  set("pause-before-switchover", options.pause_before_switchover);
  HANDOVER_TRY(client.execute("migrate-set-capabilities", {{"capabilities", list}}, cancel));
  return {};
}

/// Where the guest is after a migration that did not complete, as the machine itself says.
std::string whereabouts(QmpClient& client, const CancelToken& cancel) {
  auto status = client.execute("query-status", json::object(), cancel);
  if (!status) return "what became of the guest on the source is unknown: " + status.error().to_string();
  const auto state = text_of(*status, "status", "unknown");
  return state == "running" ? "the guest still runs on the source"
                            : fmt::format("the guest is still on the source, in run state {}", state);
}

Status judge(QmpClient& client, const json& figures, const MigrationWatch& watch,
             const MigrateOptions& options, MigrationProgress& progress, const CancelToken& cancel) {
  progress.clear();
  const auto status = text_of(figures, "status");
  const auto reason = text_of(figures, "error-desc", "the machine gave no reason");
  if (status == "completed") {
    if (!watch.too_late().empty()) progress.say("it was too late to cancel: the guest has moved");
    progress.say(summary_text(figures, options.address) + tracking_text(figures));
    return {};
  }
  if (status == "in-doubt")
    return fail(
        Errc::state,
        "the migration is in doubt: {}; the guest stands still on the source with its state intact. Look "
        "whether it runs at {}; if so, `handover resolve --qmp {} --abandon`, if not, `handover resolve "
        "--qmp {} --resume`",
        reason, options.address, options.qmp, options.qmp);
  const auto where = whereabouts(client, cancel);
  if (status == "cancelled") return fail(Errc::cancelled, "the migration was cancelled; {}", where);
  return fail(Errc::state, "the migration failed: {}; {}", reason, where);
}

Status migrate(const MigrateOptions& options) {
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  constexpr std::chrono::seconds kGreetingTime{30};
  HANDOVER_ASSIGN(auto client, QmpClient::connect(options.qmp, interrupts.first(),
                                                  std::chrono::steady_clock::now() + kGreetingTime));
  HANDOVER_TRY(configure(client, options, interrupts.first()));
  HANDOVER_TRY(interrupts.first().check());
  // From here on an interrupt has something to cancel, and only the machine can do that.
  auto started = client.execute("migrate", {{"uri", options.address}}, interrupts.again());
  if (!started) return std::unexpected(broken_off(std::move(started).error(), options));
  if (options.detach) {
    fmt::print("migrating to {}; `handover query --qmp {} migrate` tells how it goes\n", options.address,
               options.qmp);
    return {};
  }
  MigrationProgress progress;
  MigrationWatch watch(client, interrupts, progress);
  auto figures = watch.to_the_end();
  progress.clear();
  if (!figures) return std::unexpected(broken_off(std::move(figures).error(), options));
  auto verdict = judge(client, *figures, watch, options, progress, interrupts.again());
  auto written = write_report(client, options.json_file, interrupts.again());
  if (!verdict && !written) log::warn("{}", written.error().to_string());
  return verdict ? written : verdict;
}

}  // namespace

void add_migrate(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<MigrateOptions>();
  const SizeRange rate{.most = std::numeric_limits<std::uint64_t>::max(), .example = "200M"};
  auto* command =
      app.add_subcommand("migrate", "Move a running machine to another host, or save it to a file");
  command->add_option("--qmp", options->qmp, "QMP socket of the machine")->required()->type_name("PATH");
  command
      ->add_option("address", options->address, "where to: tcp:HOST:PORT, unix:PATH, file:PATH, exec:COMMAND")
      ->required()
      ->check([](const std::string& text) {
        auto address = Address::parse(text);
        return address ? std::string() : address.error().to_string();
      });
  command
      ->add_option("--max-bandwidth", options->max_bandwidth,
                   "bytes a second while the guest runs; 0: no limit")
      ->transform(size_in(rate));
  command
      ->add_option("--downtime-limit", options->downtime_limit, "how long the guest may stand still, in ms")
      ->check(CLI::Range(0, 2'000'000));
  command
      ->add_option("--avail-switchover-bandwidth", options->avail_switchover_bandwidth,
                   "bytes a second to count on for the switchover; 0: what was measured")
      ->transform(size_in(rate));
  command
      ->add_option("--multifd-channels", options->multifd_channels,
                   "carry RAM and device state over so many connections, each device loaded on a thread of "
                   "its own; the destination needs no setting")
      ->check(CLI::Range(1, 255));
  auto* ack = command->add_flag("--switchover-ack", options->switchover_ack,
                                "stop only when the destination has loaded the initial data of every device");
  auto* one_way = command->add_flag(
      "--no-return-path", options->no_return_path,
      "do without the destination's answers; nobody then knows whether it loaded everything");
  ack->excludes(one_way);
  command->add_flag("--pause-before-switchover", options->pause_before_switchover,
                    "stop before the guest is handed over, and wait for Enter");
  command->add_flag("--detach", options->detach, "only start it");
  command->add_option("--json", options->json_file, "write the whole report there")->type_name("FILE");
  command->callback([options, &exit_code] {
    auto done = migrate(*options);
    if (!done) fmt::print(stderr, "handover: {}\n", done.error().to_string());
    exit_code = done ? 0 : 1;
  });
}

}  // namespace handover::cli
