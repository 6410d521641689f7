#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "control/command_table.h"
#include "handover/base/event_loop.h"
#include "handover/machine/machine.h"
#include "handover/memory/ram_migration.h"
#include "handover/migration/blockers.h"
#include "handover/migration/destination.h"
#include "handover/migration/parameters.h"
#include "handover/migration/source.h"

namespace handover::control {

/// A snapshot as it was asked for; what is not said follows the machine's settings.
struct SnapshotRequest {
  SnapshotPlan plan;
  std::optional<bool> mapped_ram;
  std::optional<bool> direct_io;
};

/// A machine's migrations as a person sees them: the settings, the one that is under way or was the last, and
/// the rules of what may be started when.
///
/// Any thread may call; the work is done on a thread of its own, in order, and each answer is given there.
/// close() must have finished before the machine's event loop ends; it cancels what is under way.
class MigrationController {
 public:
  struct Options {
    /// Any thread: a QMP event.
    std::function<void(std::string_view name, nlohmann::json data)> emit;
    /// Leave an incoming machine paused (`-S`).
    bool incoming_paused = false;
    /// Any thread: an incoming migration that was started with `exit-on-error` has failed.
    std::function<void()> incoming_failed;
  };

  /// `ram` is among the machine's migratables; all three outlive the controller.
  MigrationController(Machine& machine, RamMigration& ram, Blockers& blockers, Options options);
  ~MigrationController();
  MigrationController(const MigrationController&) = delete;
  MigrationController& operator=(const MigrationController&) = delete;

  /// Answered when the migration has started, or was refused.
  void migrate(Address to, Reply reply);
  /// Answered when the machine is about to be saved, or that was refused.
  void snapshot(SnapshotRequest request, Reply reply);
  /// Answered when somebody may connect.
  void incoming(const Address& from, bool exit_on_error, Reply reply);
  /// Succeeds also when nothing is under way.
  void cancel(Reply reply);
  void continue_switchover(const std::string& state, Reply reply);
  void resolve(bool resume, Reply reply);

  void set_parameters(const nlohmann::json& changes, Reply reply);
  void set_capabilities(const nlohmann::json& changes, Reply reply);
  void query_parameters(Reply reply);
  void query_capabilities(Reply reply);
  /// query-migrate.
  void query(Reply reply);
  /// All figures of the outgoing migration.
  void report(Reply reply);

  /// Runs `work` on the controller's thread while no migration is under way; none starts before it is done.
  /// Refused while one is; `what` says in the refusal what cannot be done.
  void between_migrations(std::string what, Reply reply, std::function<Result<nlohmann::json>()> work);
  /// Runs `work` there in any case.  `idle`: no migration is under way; `outgoing`: figures of the last one
  /// that left from here.
  void beside_migrations(Reply reply,
                         std::function<Result<nlohmann::json>(bool idle, const Statistics& outgoing)> work);

  /// The status of the outgoing migration, for threads that may outlive the controller.
  std::shared_ptr<const std::atomic<MigrationStatus>> outgoing_status() const { return outgoing_; }
  /// Ends whatever is under way and calls `done` on the controller's thread; what is asked later is refused.
  void close(std::function<void()> done);

 private:
  /// What is under way, in words; empty if nothing is.
  std::string under_way() const;
  /// `through`: the run state in which it would be saved.
  Status check_may_leave(RunState through) const;
  Source::Options source_options();
  Status start_outgoing(Address to);
  Status start_snapshot(const SnapshotRequest& request);
  nlohmann::json with_snapshot(nlohmann::json object) const;
  Status start_incoming(const Address& from, bool exit_on_error);
  Status cancel_now();
  std::function<void(MigrationStatus)> status_observer(bool events,
                                                       std::function<void(MigrationStatus)> also);
  void answer(Reply reply, std::function<Result<nlohmann::json>()> work);
  void act(Reply reply, std::function<Status()> work);

  Machine& machine_;
  RamMigration& ram_;
  Blockers& blockers_;
  const Options options_;

  // The worker's.
  Parameters parameters_;
  Capabilities capabilities_;
  std::unique_ptr<Source> source_;
  std::string snapshot_;  // the file, if source_ saves one
  std::unique_ptr<Destination> destination_;
  std::optional<Address> listening_;
  bool closed_ = false;

  std::shared_ptr<std::atomic<MigrationStatus>> outgoing_ =
      std::make_shared<std::atomic<MigrationStatus>>(MigrationStatus::none);
  EventLoop worker_{"control"};
};

}  // namespace handover::control
