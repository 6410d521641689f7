#pragma once

#include <functional>

#include "control/command_table.h"
#include "control/migration_controller.h"
#include "handover/machine/machine.h"

namespace handover::control {

/// The status of a machine's outgoing migration: one in doubt must neither run nor change.
using OutgoingStatus = std::shared_ptr<const std::atomic<MigrationStatus>>;

/// Adds query-status, stop and cont.  Run states change on the machine's own thread.
void add_machine_commands(CommandTable& commands, Machine& machine, const OutgoingStatus& outgoing);

/// Adds migrate, migrate-incoming, migrate_cancel, migrate-continue, the settings and the queries, and ours:
/// x-handover-resolve and x-handover-report.
void add_migration_commands(CommandTable& commands, MigrationController& migration);

/// Adds migrate-start-postcopy, migrate-recover and migrate-pause, which say why there is no postcopy
/// (mission A9).
void add_postcopy_commands(CommandTable& commands);

}  // namespace handover::control
