#include <CLI/CLI.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <csignal>
#include <thread>

#include "cli/commands.h"
#include "cli/exit_with_parent.h"
#include "cli/file_option.h"
#include "cli/size_option.h"
#include "control/machine_control.h"
#include "handover/base/log.h"
#include "handover/vmm/vm.h"

namespace handover::cli {
namespace {

using nlohmann::json;

struct RunOptions {
  vmm::VmConfig config;
  std::vector<std::string> devices;
  std::string incoming;
  std::string restore;
  std::string qmp;
  std::string p2p;
  std::string dirty_tracking = "auto";
  bool paused = false;
  bool with_parent = false;
};

json guest_json(const vmm::GuestReport& report) {
  return {{"seconds", report.seconds},
          {"steps", report.steps},
          {"working-set-bytes", report.working_set_bytes},
          {"pages-filled", report.pages_filled},
          {"pages-written", report.pages_written},
          {"pages-checked", report.pages_checked},
          {"jobs-submitted", report.jobs_submitted},
          {"jobs-completed", report.jobs_completed},
          {"p2p-jobs", report.p2p_jobs},
          {"p2p-faults", report.p2p_faults},
          {"iommu-mappings", report.iommu_mappings},
          {"iommu-faults", report.iommu_faults},
          {"uart-bytes", report.uart_bytes},
          {"edu-rounds", report.edu_rounds},
          {"interrupts", report.interrupts},
          {"interrupts-lost", report.interrupts_lost},
          {"mismatches", report.mismatches},
          {"devices", report.devices},
          {"devices-lost", report.devices_lost},
          {"panic", report.panic}};
}

/// One machine from its start to its end, with the main loop, its control socket and its signals.
class RunSession {
 public:
  explicit RunSession(RunOptions options) : options_(std::move(options)) {}
  ~RunSession();

  Result<int> run();

 private:
  Status set_up();
  Status begin();
  Status begin_loading(const Address& from);
  Status begin_restoring();
  void verify(control::Reply reply);
  void quit(int exit_code);
  void watch_signals();
  void say_ready(const std::string& what) const;

  RunOptions options_;
  EventLoop main_{"main"};
  std::unique_ptr<vmm::Vm> vm_;
  std::unique_ptr<control::MachineControl> control_;
  CancelSource closing_;
  // A full check takes as long as it takes; one at a time.
  EventLoop verifier_{"verify"};
  std::optional<asio::signal_set> signals_;
  int exit_code_ = 0;
  bool warned_ = false;
};

RunSession::~RunSession() {
  closing_.cancel("the machine ends");
  verifier_.stop();
  if (control_) {
    std::promise<void> closed;
    control_->close([&] { closed.set_value(); });
    closed.get_future().wait();
    control_.reset();
  }
  signals_.reset();
}

void RunSession::quit(int exit_code) {
  main_.post([this, exit_code] {
    exit_code_ = exit_code;
    main_.stop();
  });
}

void RunSession::verify(control::Reply reply) {
  verifier_.post([this, reply] {
    auto checked = vm_->verify(std::chrono::minutes(10), closing_.token());
    if (!checked) return reply(std::unexpected(std::move(checked).error()));
    reply(json{{"pages", checked->pages},
               {"device-slots", checked->device_slots},
               {"devices", checked->devices},
               {"devices-lost", checked->devices_lost}});
  });
}

Status RunSession::set_up() {
  HANDOVER_ASSIGN(vm_, vmm::Vm::create(options_.config));
  // Also what loads a file, with or without a socket.
  if (options_.qmp.empty() && options_.restore.empty()) return {};
  HANDOVER_ASSIGN(control_,
                  control::MachineControl::create(
                      main_, {.qmp_path = options_.qmp,
                              .machine = vm_->machine(),
                              .ram = vm_->ram(),
                              .blockers = vm_->blockers(),
                              .incoming_paused = options_.paused,
                              .quit = [this](int code) { quit(code); },
                              .guest_report = [this]() -> Result<json> { return guest_json(vm_->guest()); },
                              .verify = [this](control::Reply reply) { verify(std::move(reply)); },
                              .vm = vm_.get()}));
  return {};
}

Status RunSession::begin() {
  if (!options_.restore.empty()) return begin_restoring();
  if (options_.incoming.empty()) {
    if (options_.paused) return {};
    return vm_->loop().call([&] { return vm_->machine().start(); });
  }
  if (options_.incoming == "defer") return {};
  HANDOVER_ASSIGN(auto from, Address::parse(options_.incoming));
  return begin_loading(from);
}

Status RunSession::begin_restoring() {
  HANDOVER_ASSIGN(const auto from, file_address(options_.restore));
  vm_->loop().call([&] {
    vm_->machine().add_observer([this](RunState before, RunState now) {
      if (before != RunState::inmigrate || (now != RunState::running && now != RunState::paused)) return;
      main_.post([this, now] { say_ready(fmt::format("{} from {}", to_string(now), options_.restore)); });
    });
  });
  return begin_loading(from);
}

Status RunSession::begin_loading(const Address& from) {
  std::promise<Result<json>> answered;
  control_->migration().incoming(
      from, true, control::Reply([&](Result<json> answer) { answered.set_value(std::move(answer)); }));
  auto answer = answered.get_future().get();
  if (!answer) return std::unexpected(std::move(answer).error());
  return {};
}

// The first signal does not end a machine in doubt: it may be the only one that has the guest's state.
void RunSession::watch_signals() {
  signals_->async_wait([this](const std::error_code& error, int) {
    if (error) return;
    const bool in_doubt = control_ && *control_->migration().outgoing_status() == MigrationStatus::in_doubt;
    if (!in_doubt || std::exchange(warned_, true)) return quit(0);
    log::warn(
        "this machine is in doubt and may hold the guest's only state; settle it with `handover resolve "
        "--qmp {}`, or send the signal again to end it",
        options_.qmp);
    watch_signals();
  });
}

void RunSession::say_ready(const std::string& what) const {
  auto line = fmt::format("{}: {} MiB of RAM, {} device{}", what, options_.config.memory / MiB,
                          options_.config.devices.size(), options_.config.devices.size() == 1 ? "" : "s");
  if (!options_.qmp.empty()) line += fmt::format("; control socket {}", options_.qmp);
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

Result<int> RunSession::run() {
  main_.make_main();
  HANDOVER_TRY(set_up());
  verifier_.start_thread();
  signals_.emplace(main_.context(), SIGINT, SIGTERM);
  watch_signals();
  HANDOVER_TRY(begin());
  // A restored machine says so when it is there.
  if (options_.restore.empty())
    say_ready(!options_.incoming.empty() ? "waiting for a migration"
              : options_.paused          ? "paused"
                                         : "running");
  main_.run();
  return exit_code_;
}

Status complete(RunOptions& options) {
  for (const auto& text : options.devices) {
    HANDOVER_ASSIGN(auto device, vmm::parse_device_option(text));
    options.config.devices.push_back(std::move(device));
  }
  options.config.p2p = options.p2p != "off";
  if (options.config.viommu && options.p2p == "on")
    return fail(Errc::invalid_argument,
                "--viommu does not go with --p2p on: behind the guest's IOMMU devices reach RAM only");
  options.config.dirty_tracking = vfio::tracker_kind_from(options.dirty_tracking);
  const bool incoming = !options.incoming.empty();
  options.config.incoming = incoming || !options.restore.empty();
  if (incoming && options.incoming != "defer") HANDOVER_TRY(Address::parse(options.incoming));
  if (!options.restore.empty()) HANDOVER_TRY(file_address(options.restore));
  if (incoming && options.qmp.empty())
    return fail(Errc::invalid_argument,
                "--incoming needs --qmp PATH, so that somebody can see how the migration ends");
  return options.config.check();
}

int run_machine(RunOptions options) {
  if (auto complete_now = complete(options); !complete_now) {
    fmt::print(stderr, "handover run: {}\n", complete_now.error().to_string());
    return 2;
  }
  auto ended = [&]() -> Result<int> {
    if (options.with_parent) HANDOVER_TRY(exit_with_parent());
    return RunSession(std::move(options)).run();
  }();
  if (ended) return *ended;
  fmt::print(stderr, "handover run: {}\n", ended.error().to_string());
  return 1;
}

}  // namespace

void add_run(CLI::App& app, int& exit_code) {
  auto* command =
      app.add_subcommand("run", "Run a machine with a synthetic guest and VFIO or vfio-user devices");
  auto options = std::make_shared<RunOptions>();
  auto& guest = options->config.guest;
  const SizeRange any{.least = 0, .most = UINT64_MAX};
  command->add_option("-m,--memory", options->config.memory, "guest RAM, such as 1G")
      ->transform(size_in({.least = 1 * MiB, .most = 16384 * GiB, .multiple_of = kPageSize, .example = "1G"}))
      ->default_str("256M");
  command->add_flag("--huge-pages", options->config.huge_pages, "back the RAM with 2 MiB pages of the host");
  command->add_flag("--prealloc", options->config.prealloc,
                    "take all RAM from the host at the start; a destination then loads faster");
  command
      ->add_option("--device", options->devices,
                   "vfio-user,socket=PATH,id=NAME or vfio-pci,host=ADDRESS,id=NAME (or sysfsdev=FOLDER, or "
                   "fd=N[,iommufd=M]), and "
                   "[,slot=N][,dirty-page-tracking=KIND][,pre-copy-dirty-page-tracking=on|off]; "
                   "may be repeated")
      ->take_all();
  command->add_flag("--viommu", options->config.viommu,
                    "give the guest an IOMMU: devices reach only what it maps there, and never each other");
  command
      ->add_option(
          "--dirty-page-tracking", options->dirty_tracking,
          "how it is learnt what devices write, for those that name nothing: by their own log (device), "
          "by the host's IOMMU (iommufd), by the container (type1), or not at all (all pages)")
      ->check(CLI::IsMember({"auto", "device", "iommufd", "type1", "all"}))
      ->capture_default_str();
  command
      ->add_option("--p2p", options->p2p,
                   "whether devices reach each other's memory by DMA; the same on both sides of a migration. "
                   "off lets several devices migrate of which one has no P2P state")
      ->check(CLI::IsMember({"on", "off"}))
      ->default_str("on");
  auto* incoming = command->add_option(
      "--incoming", options->incoming,
      "wait for a migration on this address (tcp:HOST:PORT, unix:PATH, fd:N, file:PATH, exec:COMMAND), "
      "or `defer` to wait for migrate-incoming");
  command
      ->add_option("--restore", options->restore, "go on from this file, which snapshot or migrate has saved")
      ->type_name("FILE")
      ->excludes(incoming);
  command->add_option("--qmp", options->qmp, "control socket to make at this path");
  command->add_flag("-S,--paused", options->paused, "do not start the guest");
  command->add_option("--working-set", guest.working_set, "memory that the guest writes; 0: most of it")
      ->transform(size_in(any));
  command->add_option("--dirty-rate", guest.dirty_rate, "bytes a second that the guest writes")
      ->transform(size_in(any))
      ->default_str("64M");
  command->add_option("--job-rate", guest.job_rate, "device jobs a second, for each device")
      ->capture_default_str();
  command->add_option("--seed", guest.seed, "of everything the guest writes")->capture_default_str();
  command->add_flag("--exit-with-parent", options->with_parent,
                    "end when the process that started this one ends");
  command->callback([options, &exit_code] { exit_code = run_machine(std::move(*options)); });
}

}  // namespace handover::cli
