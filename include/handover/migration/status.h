#pragma once

#include <string_view>

namespace handover {

/// Where a migration stands; the names are QEMU's, except `in-doubt`.
enum class MigrationStatus {
  none,
  setup,
  active,
  pre_switchover,  ///< stopped, waits for migrate-continue
  device,          ///< stopped, the last state is on its way
  completed,
  failing,  ///< on the way back to running
  failed,
  cancelling,
  cancelled,
  /// Ours: the source has sent the end-of-file mark and got no answer.  It stays stopped with everything
  /// intact until a person resolves it.
  in_doubt,
};

std::string_view to_string(MigrationStatus status);
/// No thread of the migration is at work any more and its result stands.
bool is_final(MigrationStatus status);

}  // namespace handover
