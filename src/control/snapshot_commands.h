#pragma once

#include "control/command_table.h"
#include "control/migration_controller.h"

namespace handover::control {

/// Adds x-handover-snapshot: saves the machine into a file and lets it go on.
///
/// Arguments: `filename`; `mapped-ram` and `direct-io` (by default as the capability and the parameter of
/// that name say); `stop`: leave the machine paused.  Answered when it has begun; query-migrate and
/// x-handover-report tell how it goes, migrate_cancel calls it off.
void add_snapshot_commands(CommandTable& commands, MigrationController& migration);

}  // namespace handover::control
