#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "handover/memory/ram_migration.h"
#include "handover/migration/destination.h"
#include "handover/stream/return_path.h"
#include "handover/stream/section.h"
#include "migration/channel_plan.h"
#include "migration/global_state.h"
#include "migration/incoming_channels.h"
#include "migration/multifd_receiver.h"
#include "migration/reply_sender.h"

namespace handover {

/// The load thread and what it shares with the callers of Destination.
///
/// `mutex` is a leaf; it guards what stands below it.  Everything else belongs to the load thread.
struct Destination::Impl {
  Impl(Machine& machine_of, Options with) : machine(machine_of), options(std::move(with)) {}
  ~Impl();

  void launch(std::shared_ptr<Listener> listener, std::unique_ptr<Channel> ready);
  void run();
  Status open();
  Status load();
  void fail_load(const Error& why);
  void start_machine();
  void cleanup();

  // destination_sections.cpp
  Status read_start_of_stream();
  Status read_records();
  Status read_opening_section(stream::Record kind);
  Status read_later_section(stream::Record kind);
  Status obey_command();
  /// Says what a stream that ended too early does not have (torn_stream.cpp).
  Error explain_end(Error why) const;
  Status finish_loading();
  void reply(stream::Reply type, std::uint32_t value);

  // destination_items.cpp
  Status begin_loading();
  Status begin_multifd();
  LoadOptions options_for(Migratable& item);
  std::uint64_t room_for(const Migratable& item) const;
  void report(const Migratable& item, const LoadProgress& progress);
  Status finish_items();
  /// A thread beside the load thread has failed.  Any thread.
  void note_failure(const Error& why);
  void shut_channels();

  void set_status(MigrationStatus to);
  /// Takes the step after which nothing can be called off; fails if it was called off before.
  Status pass_point(bool& flag);

  Machine& machine;
  Options options;
  CancelSource cancel;     // by request
  CancelSource giving_up;  // by request, or because something has failed
  GlobalState global_state;
  ChannelPlan plan;
  std::unique_ptr<IncomingChannels> connections;
  std::unique_ptr<Channel> channel;
  std::unique_ptr<StreamReader> in;
  std::unique_ptr<ReplySender> replies;  // once the return path is open
  std::unique_ptr<MultifdReceiver> multifd;
  std::map<std::uint32_t, Migratable*> by_id;
  std::map<const Migratable*, std::uint32_t> id_of;  // complete before threads of items read it
  std::set<const Migratable*> ended;                 // END has been read
  std::set<const Migratable*> stated;                // FULL has been read
  bool mapped_ram = false;                           // pages are not in the stream but in its file
  bool return_path_open = false;
  bool progress_asked = false;
  bool loading_begun = false;
  bool loading_finished = false;

  mutable std::mutex mutex;
  std::condition_variable changed;
  MigrationStatus status = MigrationStatus::none;
  std::string error;
  std::optional<Error> failure;  // of another thread than the load thread
  bool ready = false;            // the source was told that everything is loaded
  bool committed = false;        // the mark has been read
  Channel* shut_on_cancel = nullptr;
  std::thread thread;
};

}  // namespace handover
