#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "control/migration_controller.h"
#include "control/qmp_server.h"

namespace handover::vmm {
class Vm;
}

namespace handover::control {

/// What a QMP socket steers: one machine, its migrations, and what its maker wants to be asked.
struct MachineControlOptions {
  std::string qmp_path;  ///< empty: no socket; the machine's own process alone steers it
  Machine& machine;
  RamMigration& ram;
  Blockers& blockers;
  /// Leave an incoming machine paused (`-S`).
  bool incoming_paused = false;
  /// Any thread: ends the process, soon and in order.  Called after migrations have been ended.
  std::function<void(int exit_code)> quit;
  /// x-handover-guest, on the machine's thread; absent if empty.
  std::function<Result<nlohmann::json>()> guest_report;
  /// x-handover-verify, on the server's loop; absent if empty.  Must not block.
  std::function<void(Reply)> verify;
  /// Whose devices device_add, device_del and x-handover-query-devices are about; absent if null.
  vmm::Vm* vm = nullptr;
};

/// A machine with its QMP socket: server, commands, migrations and run-state events.
///
/// Made on the thread of `loop`, which carries the server; the machine's own loop must be running or be the
/// same one.  Before the machine's loop ends: close(), and wait for it.  Destroyed on the thread of `loop`,
/// or when it does not run any more.
class MachineControl {
 public:
  static Result<std::unique_ptr<MachineControl>> create(EventLoop& loop, MachineControlOptions options);
  ~MachineControl();

  MigrationController& migration();
  /// Any thread: sends an event to every client, such as X_HANDOVER_DEVICE_LOST.
  void emit(std::string_view name, nlohmann::json data = nlohmann::json::object());
  /// A device does not answer any more: event X_HANDOVER_DEVICE_LOST.  Any thread.
  void device_lost(const std::string& device, const std::string& reason);
  /// Cancels a migration under way and calls `done` on a thread of the controller.  Any thread.
  void close(std::function<void()> done);

 private:
  struct Impl;
  explicit MachineControl(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace handover::control
