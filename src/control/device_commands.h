#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "control/command_table.h"
#include "control/migration_controller.h"
#include "handover/base/cancel.h"
#include "handover/vmm/vm.h"

namespace handover::control {

/// device_add, device_del and x-handover-query-devices of a machine.
///
/// They are carried out on the controller's thread, one after the other, between its migrations: while one is
/// under way devices neither come nor go.  Outlives the controller and its commands.
class DeviceCommands {
 public:
  using Emit = std::function<void(std::string_view name, nlohmann::json data)>;

  DeviceCommands(vmm::Vm& vm, Emit emit) : vm_(vm), emit_(std::move(emit)) {}
  void add_to(CommandTable& commands, MigrationController& migration);
  /// Any thread: ends the wait for a device's server; nothing is plugged after.
  void close();

 private:
  Result<nlohmann::json> plug(const vmm::DeviceOptions& device);
  Result<nlohmann::json> query(bool idle, const Statistics& outgoing) const;

  vmm::Vm& vm_;
  const Emit emit_;
  std::mutex mutex_;  // leaf
  std::optional<CancelSource> plugging_;
  bool closed_ = false;
};

}  // namespace handover::control
