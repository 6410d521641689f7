#include "handover/migration/destination.h"

#include <pthread.h>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/migration/protocol.h"
#include "handover/stream/vmdescription.h"
#include "migration/destination_impl.h"

namespace handover {

Destination::Impl::~Impl() {
  cancel.cancel("the migration object was destroyed");
  giving_up.cancel("the migration object was destroyed");
  shut_channels();
  if (thread.joinable()) thread.join();
}

void Destination::Impl::shut_channels() {
  std::lock_guard lock(mutex);
  if (shut_on_cancel) shut_on_cancel->shutdown();
}

void Destination::Impl::launch(std::shared_ptr<Listener> listener, std::unique_ptr<Channel> ready_channel) {
  set_status(MigrationStatus::setup);
  connections = std::make_unique<IncomingChannels>(std::move(listener), giving_up.token());
  channel = std::move(ready_channel);
  thread = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "load");
    HANDOVER_TRACE(thread_start, "load");
    run();
    HANDOVER_TRACE(thread_end, "load");
  });
}

Status Destination::Impl::open() {
  if (channel) {
    in = std::make_unique<StreamReader>(*channel);
  } else {
    HANDOVER_ASSIGN(auto main, connections->accept_main());
    channel = std::move(main.channel);
    in = std::move(main.in);
  }
  {
    std::lock_guard lock(mutex);
    shut_on_cancel = channel.get();
  }
  return cancel.token().check();
}

void Destination::Impl::run() {
  auto loaded = open();
  if (loaded) loaded = load();
  if (loaded) return start_machine();
  std::unique_lock lock(mutex);
  // What another thread found is the cause; that the load thread then read no further is not.
  const auto cause = failure && !cancel.cancelled() ? *failure : loaded.error();
  lock.unlock();
  fail_load(cause);
}

Status Destination::Impl::load() {
  set_status(MigrationStatus::active);
  auto read = read_start_of_stream();
  if (read) read = read_records();
  if (!read) return std::unexpected(explain_end(std::move(read).error()));
  return {};
}

Status Destination::Impl::pass_point(bool& flag) {
  std::lock_guard lock(mutex);
  HANDOVER_TRY(cancel.token().check());
  flag = true;
  return {};
}

void Destination::Impl::fail_load(const Error& why) {
  const bool was_cancelled = cancel.cancelled();
  HANDOVER_TRACE(load_failed, why.to_string().c_str());
  giving_up.cancel("the incoming migration failed");
  if (return_path_open) {
    reply(stream::Reply::shut, kShutFailed);
    replies->flush();
  }
  auto sentence = why.to_string();
  {
    std::lock_guard lock(mutex);
    if (ready) sentence += "; this machine does not run, the source still owns it or is in doubt";
    error = sentence;
    shut_on_cancel = nullptr;
  }
  if (!was_cancelled) log::error("{} failed: {}", options.what, sentence);
  if (channel) channel->shutdown();
  const bool items_touched = loading_begun;
  cleanup();
  if (items_touched)
    if (auto fit = machine.loop().call([&] { return machine.check_listeners(); }); !fit) {
      std::lock_guard lock(mutex);
      error += "; and then " + fit.error().to_string();
    }
  replies.reset();
  set_status(was_cancelled ? MigrationStatus::cancelled : MigrationStatus::failed);
}

void Destination::Impl::start_machine() {
  HANDOVER_TRACE(phase, "start");
  // Before the machine runs: from then on it may be migrated again, and its items belong to that migration.
  cleanup();
  const auto ran = global_state.run_state();
  const bool run = ran == RunState::running && !options.start_paused;
  auto started = machine.loop().call(
      [&] { return run ? machine.start() : machine.set_stopped_state(RunState::paused); });
  if (return_path_open) {
    reply(stream::Reply::shut, started ? kShutLoaded : kShutFailed);
    replies->flush();
  }
  if (!started) {
    log::error("the machine arrived and does not start: {}", started.error().to_string());
    std::lock_guard lock(mutex);
    error = started.error().to_string();
  }
  set_status(started ? MigrationStatus::completed : MigrationStatus::failed);
  // The description is for tools; the machine did not wait for it, and a broken one harms nobody.  It is read
  // all the same: a socket that is closed with bytes unread takes our last answer down with it.
  if (auto rest = stream::read_vmdescription(*in); !rest)
    HANDOVER_TRACE(vmdescription_unread, rest.error().to_string().c_str());
  replies.reset();
  channel->finish_writing();
  std::lock_guard lock(mutex);
  shut_on_cancel = nullptr;
}

void Destination::Impl::cleanup() {
  // Its threads put into the items.
  multifd.reset();
  if (!std::exchange(loading_begun, false)) return;
  for (auto* item : machine.migratables())
    item->cleanup();
}

void Destination::Impl::set_status(MigrationStatus to) {
  {
    std::lock_guard lock(mutex);
    if (status == to) return;
    HANDOVER_TRACE(load_status, to_string(status).data(), to_string(to).data());
    status = to;
  }
  if (options.on_status) options.on_status(to);
  changed.notify_all();
}

Destination::Destination(Machine& machine, Options options)
    : impl_(std::make_unique<Impl>(machine, std::move(options))) {
}

Destination::~Destination() = default;

void Destination::start(std::unique_ptr<Listener> listener) {
  impl_->launch(std::move(listener), nullptr);
}

void Destination::start(std::unique_ptr<Channel> channel) {
  impl_->launch(nullptr, std::move(channel));
}

MigrationStatus Destination::status() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->status;
}

std::string Destination::error() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->error;
}

Status Destination::cancel() {
  std::lock_guard lock(impl_->mutex);
  if (is_final(impl_->status)) return {};
  if (impl_->committed) return fail(Errc::state, "too late to cancel: the machine has arrived");
  if (impl_->ready)
    return fail(Errc::state,
                "too late to cancel here: the source was told that everything is loaded; cancel there");
  impl_->cancel.cancel("cancelled by request");
  impl_->giving_up.cancel("cancelled by request");
  if (impl_->shut_on_cancel) impl_->shut_on_cancel->shutdown();
  return {};
}

MigrationStatus Destination::wait() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return is_final(impl_->status); });
  return impl_->status;
}

}  // namespace handover
