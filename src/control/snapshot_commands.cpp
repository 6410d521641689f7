#include "control/snapshot_commands.h"

#include "control/json_members.h"

namespace handover::control {

using nlohmann::json;

namespace {

Result<SnapshotRequest> snapshot_arguments(const json& arguments) {
  HANDOVER_TRY(
      only_members(arguments, "x-handover-snapshot", {"filename", "mapped-ram", "direct-io", "stop"}));
  SnapshotRequest request;
  HANDOVER_ASSIGN(request.plan.path, required_text(arguments, "filename"));
  if (request.plan.path.empty()) return fail(Errc::invalid_argument, "'filename' is empty");
  HANDOVER_ASSIGN(request.mapped_ram, optional_flag(arguments, "mapped-ram"));
  HANDOVER_ASSIGN(request.direct_io, optional_flag(arguments, "direct-io"));
  HANDOVER_ASSIGN(const auto stop, optional_flag(arguments, "stop"));
  request.plan.stay_stopped = stop.value_or(false);
  return request;
}

}  // namespace

void add_snapshot_commands(CommandTable& commands, MigrationController& migration) {
  commands.add("x-handover-snapshot", [control = &migration](const json& arguments, Reply reply) {
    auto request = snapshot_arguments(arguments);
    if (!request) return reply(std::unexpected(std::move(request).error()));
    control->snapshot(std::move(*request), std::move(reply));
  });
}

}  // namespace handover::control
