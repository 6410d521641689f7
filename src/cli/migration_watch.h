#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/interrupts.h"
#include "cli/migration_progress.h"
#include "control/qmp_client.h"
#include "handover/base/result.h"

namespace handover::cli {

/// Follows a migration that has been started to its end.
///
/// The first interrupt asks the machine to cancel; another one stops watching.  In pre-switchover a line on
/// standard input continues.
class MigrationWatch {
 public:
  MigrationWatch(control::QmpClient& client, const Interrupts& interrupts, MigrationProgress& progress)
      : client_(client), interrupts_(interrupts), progress_(progress) {}

  /// query-migrate's answer at the end; fails if the end cannot be seen.
  Result<nlohmann::json> to_the_end();
  /// What the machine answered if it was too late to cancel; else empty.
  const std::string& too_late() const { return too_late_; }

 private:
  /// The token of what is done now: once an interrupt has been honoured, only the next one counts.
  CancelToken token() const { return cancel_sent_ ? interrupts_.again() : interrupts_.first(); }
  Status send_cancel();
  Status at_pre_switchover();
  Status wait_a_little();

  control::QmpClient& client_;
  const Interrupts& interrupts_;
  MigrationProgress& progress_;
  bool cancel_sent_ = false;
  bool asked_to_continue_ = false;
  bool continued_ = false;
  bool input_ended_ = false;
  std::string too_late_;
};

}  // namespace handover::cli
