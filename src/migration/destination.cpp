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
  {
    std::lock_guard lock(mutex);
    if (shut_on_cancel) shut_on_cancel->shutdown();
  }
  if (thread.joinable()) thread.join();
}

void Destination::Impl::launch(std::function<Result<std::unique_ptr<Channel>>()> open) {
  set_status(MigrationStatus::setup);
  thread = std::thread([this, open = std::move(open)] {
    ::pthread_setname_np(::pthread_self(), "load");
    HANDOVER_TRACE(thread_start, "load");
    run(open);
    HANDOVER_TRACE(thread_end, "load");
  });
}

void Destination::Impl::run(const std::function<Result<std::unique_ptr<Channel>>()>& open) {
  auto loaded = [&]() -> Status {
    HANDOVER_ASSIGN(channel, open());
    {
      std::lock_guard lock(mutex);
      shut_on_cancel = channel.get();
    }
    HANDOVER_TRY(cancel.token().check());
    return load();
  }();
  if (!loaded)
    fail_load(loaded.error());
  else
    start_machine();
}

Status Destination::Impl::load() {
  set_status(MigrationStatus::active);
  in = std::make_unique<StreamReader>(*channel);
  HANDOVER_TRY(read_start_of_stream());
  if (auto read = read_records(); !read) return std::unexpected(explain_end(std::move(read).error()));
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
  if (return_path_open) reply(stream::Reply::shut, kShutFailed);
  auto sentence = why.to_string();
  {
    std::lock_guard lock(mutex);
    if (ready) sentence += "; this machine does not run, the source still owns it or is in doubt";
    error = sentence;
    shut_on_cancel = nullptr;
  }
  if (!was_cancelled) log::error("{} failed: {}", options.what, sentence);
  if (channel) channel->shutdown();
  cleanup();
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
  if (return_path_open) reply(stream::Reply::shut, started ? kShutLoaded : kShutFailed);
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
  channel->finish_writing();
  std::lock_guard lock(mutex);
  shut_on_cancel = nullptr;
}

void Destination::Impl::cleanup() {
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
  auto held = std::shared_ptr<Listener>(std::move(listener));
  impl_->launch([this, held] { return held->accept(impl_->cancel.token()); });
}

void Destination::start(std::unique_ptr<Channel> channel) {
  auto held = std::make_shared<std::unique_ptr<Channel>>(std::move(channel));
  impl_->launch([held]() -> Result<std::unique_ptr<Channel>> { return std::move(*held); });
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
  if (impl_->shut_on_cancel) impl_->shut_on_cancel->shutdown();
  return {};
}

MigrationStatus Destination::wait() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return is_final(impl_->status); });
  return impl_->status;
}

}  // namespace handover
