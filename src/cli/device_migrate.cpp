#include <CLI/CLI.hpp>

#include "cli/device_commands.h"
#include "cli/device_landing.h"
#include "cli/device_open.h"
#include "cli/device_options.h"
#include "cli/device_report.h"
#include "cli/device_target.h"
#include "cli/device_watch.h"
#include "cli/migration_progress.h"
#include "handover/base/log.h"
#include "handover/migration/source.h"
#include "handover/solo/private_socket.h"

namespace handover::cli {
namespace {

struct MigrateCommand {
  std::string target;
  std::string to;
  DeviceReadOptions read;
  std::optional<std::uint64_t> multifd_channels;
  bool switchover_ack = false;
  bool stay_stopped = false;
  std::string json_file;
};

Source::Options source_options(const MigrateCommand& command, const solo::SoloMachine& machine,
                               const DeviceWatch& watch) {
  Source::Options how;
  how.parameters = machine.parameters(command.read.parameters());
  how.capabilities.multifd = command.multifd_channels.has_value();
  if (command.multifd_channels) how.parameters.multifd_channels = *command.multifd_channels;
  how.capabilities.switchover_ack = command.switchover_ack;
  how.on_status = watch.observer();
  return how;
}

DeviceReport begin_report(const solo::SoloMachine& machine) {
  DeviceReport report;
  report.operation = "migrate";
  report.source = &machine;
  return report;
}

void take_figures(DeviceReport& report, const Source& source) {
  report.statistics = source.statistics();
  report.status = report.statistics.status;
  report.error = report.statistics.error;
  report.seconds = static_cast<double>(report.statistics.total_ms) / 1000;
}

void print_success(const MigrateCommand& command, const DeviceReport& report) {
  fmt::print(
      "migrated {} to {} in {:.2f} s, downtime {:.1f} ms, {} sent; the source's device stays in STOP\n{}",
      command.target, command.to, report.seconds, report.statistics.downtime_ms,
      size_text(static_cast<double>(report.statistics.transferred)), report_text(report));
}

Status finish(const MigrateCommand& command, DeviceReport& report, Status verdict) {
  if (verdict)
    print_success(command, report);
  else
    report.error = verdict.error().to_string();
  auto written = write_report(report, command.json_file);
  if (!verdict && !written) log::warn("{}", written.error().to_string());
  return verdict ? written : verdict;
}

// The other device is in another process, maybe on another host.
Status migrate_away(const MigrateCommand& command, const Interrupts& interrupts) {
  HANDOVER_ASSIGN(const auto address, Address::parse(command.to));
  if (address.kind == Address::Kind::file)
    return fail(Errc::invalid_argument, "`handover device save` puts a device's state into a file");
  HANDOVER_ASSIGN(const auto open, open_as_found(command.target));
  HANDOVER_ASSIGN(const auto machine,
                  solo::SoloMachine::create(*open.device, *open.memory, command.read.solo()));
  HANDOVER_ASSIGN(auto watch, DeviceWatch::create(interrupts));
  auto report = begin_report(*machine);
  report.place = command.to;
  auto source =
      std::make_unique<Source>(machine->machine(), nullptr, source_options(command, *machine, watch));
  source->start(address);
  const bool ended = watch.until({.done = [&] { return is_final(source->status()); },
                                  .line = [&] { return source_line(*machine, source->statistics()); },
                                  .cancel = [&] { return source->cancel(); }});
  if (!ended) {
    source.reset();
    return fail(Errc::cancelled, "interrupted; the source's device {}", whereabouts(*machine));
  }
  take_figures(report, *source);
  auto verdict = [&]() -> Status {
    switch (report.status) {
      case MigrationStatus::completed:
        return {};
      case MigrationStatus::in_doubt:
        return fail(
            Errc::state,
            "the migration is in doubt: {}; the device stands still with its state intact. Look whether it "
            "runs at {}; if not, `handover device start {}` runs it here again",
            report.error, command.to, command.target);
      case MigrationStatus::cancelled:
        return fail(Errc::cancelled, "the migration was cancelled; the source's device {}",
                    whereabouts(*machine));
      default:
        return fail(Errc::state, "the migration failed: {}; the source's device {}", report.error,
                    whereabouts(*machine));
    }
  }();
  return finish(command, report, std::move(verdict));
}

/// Both devices are here: whatever one side does not know, the other one does.
class LocalMove {
 public:
  LocalMove(const MigrateCommand& command, const Interrupts& interrupts)
      : command_(command), interrupts_(interrupts) {}

  Status run();

 private:
  Status open();
  bool watch();
  Status judge();

  const MigrateCommand& command_;
  const Interrupts& interrupts_;
  OpenDevice here_, there_;
  std::unique_ptr<solo::SoloMachine> from_, to_;
  std::optional<solo::PrivateSocket> socket_;
  std::optional<DeviceWatch> watch_;
  std::unique_ptr<Destination> destination_;
  std::unique_ptr<Source> source_;
};

Status LocalMove::open() {
  HANDOVER_ASSIGN(here_, open_as_found(command_.target));
  HANDOVER_ASSIGN(there_, open_as_found(command_.to));
  HANDOVER_ASSIGN(from_, solo::SoloMachine::create(*here_.device, *here_.memory, command_.read.solo()));
  HANDOVER_ASSIGN(to_, solo::SoloMachine::create(*there_.device, *there_.memory,
                                                 {.side = solo::SoloOptions::Side::destination}));
  HANDOVER_ASSIGN(auto socket, solo::PrivateSocket::create());
  socket_.emplace(std::move(socket));
  HANDOVER_ASSIGN(watch_, DeviceWatch::create(interrupts_));
  HANDOVER_ASSIGN(auto listener, listen_on(socket_->address()));
  Destination::Options how;
  how.on_status = watch_->observer();
  how.start_paused = command_.stay_stopped;
  destination_ = std::make_unique<Destination>(to_->machine(), std::move(how));
  destination_->start(std::move(listener));
  source_ = std::make_unique<Source>(from_->machine(), nullptr, source_options(command_, *from_, *watch_));
  source_->start(socket_->address());
  return {};
}

bool LocalMove::watch() {
  const bool ended = watch_->until({.done = [&] { return is_final(source_->status()); },
                                    .line = [&] { return source_line(*from_, source_->statistics()); },
                                    .cancel = [&] { return source_->cancel(); }});
  if (!ended) return false;
  // A source that failed before it connected has left it waiting.  What it found itself, it says.
  const auto status = source_->status();
  if (status == MigrationStatus::failed || status == MigrationStatus::cancelled)
    if (auto cancel = destination_->cancel(); !cancel) log::debug("{}", cancel.error().to_string());
  return watch_->until({.done = [&] { return is_final(destination_->status()); },
                        .line = [] { return std::string(); },
                        .cancel = [&] { return destination_->cancel(); }});
}

Status LocalMove::judge() {
  const bool arrived = destination_->status() == MigrationStatus::completed;
  auto landed = land(*to_, *destination_, command_.stay_stopped);
  auto status = source_->status();
  if (status == MigrationStatus::in_doubt) {
    // The device there was either started or reset, so there is one runner at the most.
    HANDOVER_TRY_CONTEXT(source_->resolve(!arrived), "the device here after its doubt was settled");
    status = arrived ? MigrationStatus::completed : MigrationStatus::failed;
  }
  if (status == MigrationStatus::completed) {
    HANDOVER_TRY_CONTEXT(landed, "the device has moved and does not run");
    return {};
  }
  if (status == MigrationStatus::cancelled)
    return fail(Errc::cancelled, "the migration was cancelled; the source's device {}", whereabouts(*from_));
  return fail(Errc::state, "the migration failed: {}; there: {}; the source's device {}",
              source_->statistics().error, landed ? "it was loaded" : landed.error().to_string(),
              whereabouts(*from_));
}

Status LocalMove::run() {
  HANDOVER_TRY(open());
  if (!watch()) {
    source_.reset();
    destination_.reset();
    return fail(Errc::cancelled, "interrupted; the source's device {}, the one at {} {}", whereabouts(*from_),
                command_.to, whereabouts(*to_));
  }
  auto report = begin_report(*from_);
  report.destination = to_.get();
  auto verdict = judge();
  take_figures(report, *source_);
  return finish(command_, report, std::move(verdict));
}

Status migrate(const MigrateCommand& command) {
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  if (command.to == command.target)
    return fail(Errc::invalid_argument, "a device cannot be migrated to itself; {} is both", command.to);
  if (!DeviceTarget::parse(command.to)) return migrate_away(command, interrupts);
  return LocalMove(command, interrupts).run();
}

std::string check_destination(const std::string& text) {
  const auto device = DeviceTarget::parse(text);
  if (device) return {};
  const auto address = Address::parse(text);
  if (address) return {};
  return fmt::format("{}; or, where another process waits with `handover device load --listen`: {}",
                     device.error().to_string(), address.error().to_string());
}

}  // namespace

void add_device_migrate(CLI::App& device, int& exit_code) {
  auto options = std::make_shared<MigrateCommand>();
  auto* command = device.add_subcommand("migrate", "Move a device's state to another device while it runs");
  command->add_option("TARGET", options->target, DeviceTarget::kHelp)->required();
  command
      ->add_option(
          "DEST", options->to,
          "another device of this host, or the address at which `handover device load --listen` waits")
      ->required()
      ->check(check_destination);
  options->read.add_to(*command);
  command
      ->add_option("--multifd-channels", options->multifd_channels,
                   "carry what is read from the stopped device over so many connections")
      ->check(CLI::Range(1, 255));
  command->add_flag("--switchover-ack", options->switchover_ack,
                    "stop only when the destination has loaded the device's initial data");
  command->add_flag("--stay-stopped", options->stay_stopped,
                    "leave the device that was loaded in STOP, if it is on this host");
  command->add_option("--json", options->json_file, "write the whole report there")->type_name("FILE");
  command->callback([options, &exit_code] {
    auto done = migrate(*options);
    if (done) return;
    fmt::print(stderr, "handover device migrate: {}\n", done.error().to_string());
    exit_code = 1;
  });
}

}  // namespace handover::cli
