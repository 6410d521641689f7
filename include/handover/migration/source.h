#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "handover/base/cancel.h"
#include "handover/channel/channel.h"
#include "handover/machine/machine.h"
#include "handover/memory/ram_migration.h"
#include "handover/migration/parameters.h"
#include "handover/migration/snapshot.h"
#include "handover/migration/statistics.h"

namespace handover {

/// One outgoing migration of a machine, from setup to its end.
///
/// start() makes a migration thread; everything else may be called from any thread.  Until the mark that
/// commits is sent, every failure and every cancel ends with the machine back in the run state it had.
/// The object must be destroyed on a thread that is neither the machine's nor the migration's; that
/// cancels a migration under way and joins its thread.
class Source {
 public:
  struct Options {
    Parameters parameters;
    Capabilities capabilities;
    /// Told on the migration thread at every change of status.
    std::function<void(MigrationStatus)> on_status;
    /// Told on the migration thread at every dirty sync from the second on (event MIGRATION_PASS).
    std::function<void(std::uint64_t)> on_pass;
    /// How long the source waits for an answer after the mark before the machine is in doubt.
    std::chrono::milliseconds answer_timeout{30000};
  };

  /// `ram` is among the machine's migratables; null: the machine has no memory of its own to move (a device
  /// alone).
  Source(Machine& machine, RamMigration* ram, Options options);
  ~Source();
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  /// Connects and migrates on a thread of its own; a failure to connect is reported by the status.  With the
  /// capability multifd it connects multifd-channels times more.
  void start(Address to);
  /// The same over a channel that is open already; no multifd.
  void start(std::unique_ptr<Channel> channel);
  /// Saves a snapshot instead: the machine stands still while it is saved, and then goes on.
  void start(SnapshotPlan plan);

  MigrationStatus status() const;
  Statistics statistics() const;
  /// Changes take effect at once.
  void set_parameters(const Parameters& parameters);
  /// Before the mark: back to running.  After it: refused, with the reason.
  Status cancel();
  /// migrate-continue: leaves pre-switchover.
  Status continue_switchover();
  /// Ends the doubt: `resume` runs the machine here again, otherwise it is given up for good.  Only in
  /// status in-doubt; the person who calls this knows that the other side is not running (or is).
  Status resolve(bool resume);
  /// Waits for a final status.
  MigrationStatus wait();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover
