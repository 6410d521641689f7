#include "control/machine_commands.h"

#include "control/json_members.h"

namespace handover::control {

using nlohmann::json;

namespace {

Result<json> query_status(const Machine& machine) {
  const auto state = machine.state();
  json object{{"running", state == RunState::running}, {"status", to_string(state)}};
  if (const auto trouble = machine.trouble(); !trouble.empty()) object["x-handover-trouble"] = trouble;
  return object;
}

// A machine that stands for a migration is the migration's, whoever asks.
Status check_not_migrating(RunState state, MigrationStatus outgoing) {
  if (outgoing == MigrationStatus::in_doubt)
    return fail(Errc::state,
                "this machine is in doubt: it may run at its destination; settle it with "
                "x-handover-resolve");
  if (state == RunState::finish_migrate)
    return fail(Errc::state, "a migration is finishing; wait for its end, or cancel it");
  if (state == RunState::save_vm)
    return fail(Errc::state, "a snapshot is being saved; wait for its end, or cancel it");
  if (state == RunState::inmigrate) return fail(Errc::state, "this machine waits for an incoming migration");
  return {};
}

Status stop(Machine& machine, MigrationStatus outgoing) {
  const auto state = machine.state();
  HANDOVER_TRY(check_not_migrating(state, outgoing));
  // Whatever else it is that keeps the machine from running stays as it is.
  return state == RunState::running ? machine.stop(RunState::paused) : Status{};
}

Status cont(Machine& machine, MigrationStatus outgoing) {
  const auto state = machine.state();
  HANDOVER_TRY(check_not_migrating(state, outgoing));
  if (state == RunState::postmigrate)
    return fail(Errc::state, "this machine has been given up to a destination and must not run here again");
  if (state != RunState::running && !run_state_arc_exists(state, RunState::running)) {
    const auto trouble = machine.trouble();
    return fail(Errc::state, "a machine in run state {} cannot continue{}{}", to_string(state),
                trouble.empty() ? "" : ": ", trouble);
  }
  return machine.start();
}

using Change = Status (*)(Machine&, MigrationStatus);

CommandTable::Handler on_machine(const char* name, Machine& machine, OutgoingStatus outgoing, Change change) {
  return [name, &machine, outgoing, change](const json& arguments, const Reply& reply) {
    if (auto known = only_members(arguments, name, {}); !known) return reply.done(std::move(known));
    machine.loop().post([&machine, outgoing, change, reply] { reply.done(change(machine, *outgoing)); });
  };
}

}  // namespace

void add_machine_commands(CommandTable& commands, Machine& machine, const OutgoingStatus& outgoing) {
  commands.add_quick("query-status", [&machine](const json& arguments) -> Result<json> {
    HANDOVER_TRY(only_members(arguments, "query-status", {}));
    return query_status(machine);
  });
  commands.add("stop", on_machine("stop", machine, outgoing, stop));
  commands.add("cont", on_machine("cont", machine, outgoing, cont));
}

}  // namespace handover::control
