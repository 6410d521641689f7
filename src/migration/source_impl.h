#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "handover/base/rate_limiter.h"
#include "handover/memory/mapped_ram_file.h"
#include "handover/migration/protocol.h"
#include "handover/migration/source.h"
#include "handover/stream/vmdescription.h"
#include "migration/channel_plan.h"
#include "migration/convergence.h"
#include "migration/global_state.h"
#include "migration/multifd_sender.h"
#include "migration/parallel_saver.h"
#include "migration/return_path_listener.h"
#include "migration/snapshot_file.h"

namespace handover {

/// The migration thread and what it shares with the callers of Source.
///
/// `mutex` is a leaf; it guards what stands below it.  Everything else belongs to the migration thread.
struct Source::Impl {
  using Clock = std::chrono::steady_clock;
  /// What a section's bytes count as.
  enum class Phase { setup, precopy, downtime };
  struct Entry {
    Migratable* item;
    std::uint32_t id;
  };

  Impl(Machine& machine_of, RamMigration* ram_of, Options with);
  ~Impl();

  using Open = std::function<Result<std::unique_ptr<Channel>>()>;
  void launch(Open open, bool peer);
  void run(const Open& open);
  Status open_channels(const Open& open);
  void shut_channels();

  // source_phases.cpp, source_switchover.cpp: in this order, each until it fails.
  Status setup();
  Status iterate();
  Status switch_over();
  Status commit();
  Status commit_to_peer();
  void back_out(Error why);
  void enter_doubt(std::string why);
  void finish(MigrationStatus final_status);
  void cleanup_items();

  /// Who had nothing left to send in a pass.
  struct Quiet {
    bool ram;
    bool all;
  };
  Result<Quiet> pass();
  Result<Iterated> write_part(const Entry& entry, std::uint64_t most);
  Status ask_pending(bool exact);
  void note_estimate(const Pending& sum);
  void note_tracking();
  /// Acknowledgements that are still to come; more than were asked for are a failure.
  Result<std::uint64_t> acks_outstanding() const;
  Status finish_channels(ParallelSaver* devices, std::uint64_t ram_before);
  std::uint64_t transferred() const;
  Status wait_for_continue();
  Status give_up();
  Status check_alive() const;

  // source_file.cpp
  stream::Configuration configuration() const;
  bool wants_mapped_ram() const;
  /// Over connections of its own; a file with a place for every page has several writers instead.
  bool wants_multifd() const;
  Status open_page_file();
  Status commit_to_file();

  // snapshot.cpp
  Status stand_still();
  Status save_snapshot();
  Status save_memory(const Entry& memory);
  Status publish_snapshot();
  static double ms_since(Clock::time_point start);

  // source_sections.cpp
  void number_sections();
  Status write_early();
  Status write_starts();
  Status write_ends(bool ram_only);
  /// Either those that go before devices' states, or the others.
  Status write_states(bool before_devices);
  Status write_end_mark();
  Status write_section(stream::Record kind, const Entry& entry, Phase phase,
                       const std::function<Status()>& body);
  Status write_state(const Entry& entry, Phase phase);
  std::uint64_t sent_by(const Entry& entry) const;
  void account(const Entry& entry, Phase phase, std::uint64_t bytes);

  void set_status(MigrationStatus to);
  template <class Change>
  void note(Change change) {
    std::lock_guard lock(mutex);
    change(statistics);
  }
  Parameters current_parameters() const;

  Machine& machine;
  RamMigration* ram;  // may be null
  Options options;
  CancelSource cancel;
  RateLimiter limiter;
  Convergence convergence;
  ChannelPlan plan;
  GlobalState global_state;
  SaveOptions save_options;
  std::vector<Entry> entries;
  std::vector<Pending> left;      // by section id, as last asked
  std::uint64_t can_precopy = 0;  // the sum of it that can move while the machine runs
  bool has_peer = true;
  bool have_stopped_machine = false;
  RunState state_before = RunState::running;
  Clock::time_point started{};
  Clock::time_point stopped{};
  std::unique_ptr<Channel> channel;
  std::unique_ptr<StreamWriter> writer;
  std::unique_ptr<MultifdSender> multifd;       // null: everything goes over the main channel
  std::unique_ptr<MappedRamFile> mapped_ram;    // null: pages go into the stream
  std::optional<SnapshotPlan> snapshot;         // the machine is saved, not given away
  std::unique_ptr<SnapshotFile> snapshot_file;  // until it has its name
  std::unique_ptr<ReturnPathListener> answers;
  stream::VmdescriptionBuilder vmdescription{configuration()};

  mutable std::mutex mutex;
  std::condition_variable_any changed;
  Statistics statistics;
  bool committed = false;       // the mark is on its way: no way back
  bool continue_asked = false;  // migrate-continue
  Channel* shut_on_cancel = nullptr;
  MultifdSender* multifd_on_cancel = nullptr;
  std::thread thread;
};

}  // namespace handover
