#include <poll.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>
#include <memory>

#include "cli/commands.h"
#include "cli/duration_option.h"
#include "cli/exit_with_parent.h"
#include "cli/interrupts.h"
#include "cli/size_option.h"
#include "devices/accelerator/accelerator.h"
#include "devices/accelerator/size_text.h"
#include "handover/base/event_loop.h"
#include "handover/base/log.h"
#include "handover/vfio_user/server.h"

namespace handover::cli {
namespace {

using vfio_user::MigrationInterface;

// A client that goes while the device loads is waited for.
constexpr std::chrono::seconds kMostLoadCost{60};
constexpr std::uint32_t kMostLogRanges = 65536;

struct Choices {
  std::string socket;
  std::uint64_t memory = 256 * MiB;
  bool with_parent = false;
  std::string migration = "v2";
  std::string pre_copy = "on";
  std::string p2p = "on";
  std::string dma_log = "on";
  std::uint32_t dma_log_ranges = 0;
  std::uint64_t dma_log_bytes = 0;
  std::string load_cost = "0";
};

bool is_on(const std::string& choice) {
  return choice == "on";
}

std::string described_log(const Choices& choices) {
  if (!is_on(choices.dma_log)) return ", no DMA log";
  std::string text = ", DMA log";
  if (choices.dma_log_ranges > 0) text += fmt::format(" of at most {} ranges", choices.dma_log_ranges);
  if (choices.dma_log_bytes > 0)
    text += fmt::format(" {} {}", choices.dma_log_ranges > 0 ? "and" : "of at most",
                        size_argument(choices.dma_log_bytes));
  return text;
}

/// What the ready line says of the device's migration.
std::string described(const Choices& choices, std::chrono::nanoseconds load_cost) {
  const auto log = described_log(choices);
  if (choices.migration == "none") return "no migration" + log;
  auto text =
      fmt::format("migration {}, {}pre-copy", choices.migration, is_on(choices.pre_copy) ? "" : "no ");
  if (choices.migration == "v2") text += is_on(choices.p2p) ? ", P2P" : ", no P2P";
  if (load_cost.count() > 0) text += ", load cost " + duration_argument(load_cost);
  return text + log;
}

vfio_user::ServerOptions server_options(const Choices& choices) {
  vfio_user::ServerOptions options;
  options.socket_path = choices.socket;
  if (choices.migration == "v1") options.migration = MigrationInterface::v1;
  if (choices.migration == "none") options.migration = MigrationInterface::none;
  if (!is_on(choices.pre_copy)) options.migration_features_mask &= ~vfio::kMigrationPreCopy;
  if (!is_on(choices.p2p)) options.migration_features_mask &= ~vfio::kMigrationP2p;
  options.dma_logging = is_on(choices.dma_log);
  options.max_dma_log_ranges = choices.dma_log_ranges;
  options.max_dma_log_bytes = choices.dma_log_bytes;
  return options;
}

Status serve_accelerator(const Choices& choices) {
  // Before the loop's and the device's threads, which must not take the signals.
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  if (choices.with_parent) HANDOVER_TRY(exit_with_parent());

  HANDOVER_ASSIGN(const auto load_cost, parse_duration(choices.load_cost));
  EventLoop loop("device");
  HANDOVER_ASSIGN(const auto device,
                  accelerator::Accelerator::create(
                      {.memory_size = choices.memory, .load_cost = load_cost, .loop = &loop}));
  loop.start_thread();
  HANDOVER_ASSIGN(const auto server, vfio_user::Server::create(loop, *device, server_options(choices)));
  std::printf("serving accelerator (%s) on %s: %s\n", accelerator::size_text(choices.memory).c_str(),
              choices.socket.c_str(), described(choices, load_cost).c_str());
  if (std::fflush(stdout) != 0) return fail_errno(errno, "cannot write to standard output");
  HANDOVER_TRY(wait_fd(interrupts.first().fd(), POLLIN, {}));
  if (const auto faults = server->dma_faults(); faults > 0)
    log::info("the device accessed memory that was not mapped for it {} times; each failed", faults);
  return {};
}

void add_migration_options(CLI::App& command, Choices& choices) {
  command.add_option("--migration", choices.migration, "how clients migrate the device: v2, v1 or none")
      ->check(CLI::IsMember({"v2", "v1", "none"}))
      ->type_name("")
      ->capture_default_str();
  const auto on_off = [&](const std::string& name, std::string& to, const std::string& text) {
    command.add_option(name, to, text)
        ->check(CLI::IsMember({"on", "off"}))
        ->type_name("")
        ->capture_default_str();
  };
  on_off("--pre-copy", choices.pre_copy, "state can move while the device runs");
  on_off("--p2p", choices.p2p,
         "the device has P2P states; machines with several devices need them (v2 only)");
  on_off("--dma-log", choices.dma_log, "the device logs what it writes to the machine's memory");
  command
      .add_option("--dma-log-ranges", choices.dma_log_ranges,
                  "the log covers no more address ranges than that, as hardware's does (else: everything)")
      ->check(CLI::Range(1u, kMostLogRanges))
      ->type_name("N");
  command
      .add_option("--dma-log-bytes", choices.dma_log_bytes,
                  "the log covers no more than that in sum, e.g. 64G (else: everything)")
      ->transform(size_in({.least = kPageSize,
                           .most = std::numeric_limits<std::uint64_t>::max(),
                           .multiple_of = kPageSize,
                           .example = "64G"}))
      ->type_name("SIZE");
  command.add_option("--load-cost", choices.load_cost, "how much longer loading a state takes, e.g. 70ms")
      ->check(duration_up_to(kMostLoadCost))
      ->type_name("DURATION")
      ->capture_default_str();
}

// What is only a default bends; what was asked for and cannot be is an error.
void refuse_contradictions(const CLI::App& command, const Choices& choices) {
  for (const auto* name : {"--dma-log-ranges", "--dma-log-bytes"})
    if (!is_on(choices.dma_log) && command.count(name) > 0)
      throw CLI::ValidationError(fmt::format("{} does not go with --dma-log off", name));
  if (choices.migration == "v2") return;
  const bool none = choices.migration == "none";
  const auto asked = [&](const std::string& name, const std::string& value) {
    return command.count(name) > 0 && value != "off";
  };
  for (const auto& [name, wrong] : {std::pair{"--p2p", asked("--p2p", choices.p2p)},
                                    {"--pre-copy", none && asked("--pre-copy", choices.pre_copy)},
                                    {"--load-cost", none && asked("--load-cost", choices.load_cost)}})
    if (wrong)
      throw CLI::ValidationError(fmt::format("{} {} does not go with --migration {}", name,
                                             command.get_option(name)->as<std::string>(), choices.migration));
}

}  // namespace

void add_serve(CLI::App& app, int& exit_code) {
  CLI::App* serve = app.add_subcommand("serve", "Serve a device to a machine over vfio-user");
  serve->require_subcommand(1);

  auto choices = std::make_shared<Choices>();
  CLI::App* command =
      serve->add_subcommand("accelerator",
                            "A device with memory of its own and an engine that copies, fills and hashes.\n"
                            "Runs until SIGTERM or SIGINT; says on standard output when it is ready.");
  command->add_option("--socket", choices->socket, "UNIX socket to listen on; one client at a time")
      ->type_name("PATH")
      ->required();
  command->add_option("--memory", choices->memory, "device memory, e.g. 256M or 1G")
      ->transform(size_in(
          {.least = accelerator::kMinMemory, .most = accelerator::kMaxMemory, .multiple_of = kPageSize}))
      ->type_name("SIZE")
      ->default_str("256M");
  command->add_flag("--exit-with-parent", choices->with_parent,
                    "end when the process that started this one ends");
  add_migration_options(*command, *choices);
  command->callback([choices, command, &exit_code] {
    refuse_contradictions(*command, *choices);
    auto done = serve_accelerator(*choices);
    if (done) return;
    std::fprintf(stderr, "handover serve: %s\n", done.error().to_string().c_str());
    exit_code = 1;
  });
}

}  // namespace handover::cli
