#include "control/machine_control.h"

#include <mutex>

#include "control/device_commands.h"
#include "control/json_members.h"
#include "control/machine_commands.h"
#include "control/snapshot_commands.h"

namespace handover::control {

using nlohmann::json;

struct MachineControl::Impl {
  Impl(EventLoop& on, MachineControlOptions with) : loop(on), options(std::move(with)) {
    if (options.vm)
      devices.emplace(*options.vm, [this](std::string_view name, json data) { emit(name, std::move(data)); });
  }

  // The server comes after the controller that speaks through it and goes before it.
  void emit(std::string_view name, json data) {
    std::lock_guard lock(mutex);
    if (server) server->emit(name, std::move(data));
  }

  void run_state_changed(RunState from, RunState to) {
    if (from == RunState::running) emit("STOP", json::object());
    if (to == RunState::running) emit("RESUME", json::object());
    if (to == RunState::shutdown) emit("SHUTDOWN", {{"guest", true}, {"reason", "guest-shutdown"}});
    if (to == RunState::guest_panicked)
      emit("GUEST_PANICKED", {{"action", "pause"}, {"x-handover-reason", options.machine.trouble()}});
  }

  void close(std::function<void()> done) {
    if (devices) devices->close();
    controller->close(std::move(done));
  }

  void quit(int exit_code) {
    close([this, exit_code] { options.quit(exit_code); });
  }

  void add_commands(CommandTable& commands);

  EventLoop& loop;
  MachineControlOptions options;
  std::optional<DeviceCommands> devices;
  std::unique_ptr<MigrationController> controller;
  std::mutex mutex;  // guards `server`; held only while an event is queued
  std::unique_ptr<QmpServer> server;
};

void MachineControl::Impl::add_commands(CommandTable& commands) {
  add_machine_commands(commands, options.machine, controller->outgoing_status());
  add_migration_commands(commands, *controller);
  add_postcopy_commands(commands);
  if (devices) devices->add_to(commands, *controller);
  add_snapshot_commands(commands, *controller);
  commands.add("quit", [this](const json& arguments, const Reply& reply) {
    if (auto known = only_members(arguments, "quit", {}); !known) return reply.done(std::move(known));
    if (*controller->outgoing_status() == MigrationStatus::in_doubt)
      return reply.done(fail(Errc::state,
                             "this machine is in doubt and may hold the guest's only state; settle it "
                             "with x-handover-resolve before it ends"));
    reply.done({});
    emit("SHUTDOWN", {{"guest", false}, {"reason", "host-qmp-quit"}});
    // Behind the answer and the event, which are in the loop's queue now: the end must not overtake them.
    loop.post([this] { quit(0); });
  });
  if (options.guest_report)
    commands.add("x-handover-guest", [&loop = options.machine.loop(), report = options.guest_report](
                                         const json& arguments, const Reply& reply) {
      if (auto known = only_members(arguments, "x-handover-guest", {}); !known)
        return reply.done(std::move(known));
      loop.post([report, reply] { reply(report()); });
    });
  if (options.verify)
    commands.add("x-handover-verify", [this](const json& arguments, const Reply& reply) {
      if (auto known = only_members(arguments, "x-handover-verify", {}); !known)
        return reply.done(std::move(known));
      options.verify(reply);
    });
}

Result<std::unique_ptr<MachineControl>> MachineControl::create(EventLoop& loop,
                                                               MachineControlOptions options) {
  auto impl = std::make_shared<Impl>(loop, std::move(options));
  auto& with = impl->options;
  impl->controller = std::make_unique<MigrationController>(
      with.machine, with.ram, with.blockers,
      MigrationController::Options{
          .emit = [raw = impl.get()](std::string_view name, json data) { raw->emit(name, std::move(data)); },
          .incoming_paused = with.incoming_paused,
          .incoming_failed = [raw = impl.get()] { raw->quit(1); }});
  CommandTable commands;
  impl->add_commands(commands);
  if (!with.qmp_path.empty()) {
    HANDOVER_ASSIGN(auto server, QmpServer::listen(loop, with.qmp_path, std::move(commands)));
    std::lock_guard lock(impl->mutex);
    impl->server = std::move(server);
  }
  auto observe = [&] {
    // Observers stay with the machine for good; this one may outlive us.
    with.machine.add_observer([weak = std::weak_ptr(impl)](RunState from, RunState to) {
      if (auto held = weak.lock()) held->run_state_changed(from, to);
    });
  };
  if (&with.machine.loop() == &loop)
    observe();  // we are on its thread, which may not run it yet
  else
    with.machine.loop().call(observe);
  return std::unique_ptr<MachineControl>(new MachineControl(std::move(impl)));
}

MachineControl::MachineControl(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {
}

MachineControl::~MachineControl() {
  std::unique_ptr<QmpServer> server;
  {
    std::lock_guard lock(impl_->mutex);
    server = std::move(impl_->server);
  }
  server.reset();
  impl_->controller.reset();
}

MigrationController& MachineControl::migration() {
  return *impl_->controller;
}

void MachineControl::emit(std::string_view name, json data) {
  impl_->emit(name, std::move(data));
}

void MachineControl::device_lost(const std::string& device, const std::string& reason) {
  emit("X_HANDOVER_DEVICE_LOST", {{"device", device}, {"reason", reason}});
}

void MachineControl::close(std::function<void()> done) {
  impl_->close(std::move(done));
}

}  // namespace handover::control
