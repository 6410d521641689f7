#include "handover/migration/source.h"

#include <pthread.h>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "migration/source_impl.h"

namespace handover {

Source::Impl::Impl(Machine& machine_of, RamMigration* ram_of, Options with)
    : machine(machine_of), ram(ram_of), options(std::move(with)) {
}

Source::Impl::~Impl() {
  cancel.cancel("the migration object was destroyed");
  shut_channels();
  if (thread.joinable()) thread.join();
}

void Source::Impl::shut_channels() {
  std::lock_guard lock(mutex);
  if (shut_on_cancel) shut_on_cancel->shutdown();
  if (multifd_on_cancel) multifd_on_cancel->shutdown();
}

void Source::Impl::launch(Open open, bool peer) {
  has_peer = peer;
  started = Clock::now();
  set_status(MigrationStatus::setup);
  thread = std::thread([this, open = std::move(open)] {
    ::pthread_setname_np(::pthread_self(), "migration");
    HANDOVER_TRACE(thread_start, "migration");
    run(open);
    HANDOVER_TRACE(thread_end, "migration");
  });
}

// All connections before the first byte, so that the destination finds them when it reads how many there are.
Status Source::Impl::open_channels(const Open& open) {
  HANDOVER_ASSIGN(channel, open());
  {
    std::lock_guard lock(mutex);
    shut_on_cancel = channel.get();
  }
  HANDOVER_TRY(cancel.token().check());
  if (!wants_multifd()) return {};
  if (!channel->two_way())
    return fail(Errc::unsupported,
                "multifd needs a socket (tcp:HOST:PORT or unix:PATH), or `mapped-ram` in a file, not {}",
                channel->name());
  const auto count = current_parameters().multifd_channels;
  std::vector<std::unique_ptr<Channel>> channels;
  for (std::uint64_t i = 0; i < count; ++i) {
    HANDOVER_ASSIGN_CONTEXT(auto one, open(), "multifd channel {} of {}", i + 1, count);
    channels.push_back(std::move(one));
  }
  multifd = std::make_unique<MultifdSender>(std::move(channels));
  plan = ChannelPlan(static_cast<std::uint32_t>(count));
  {
    std::lock_guard lock(mutex);
    multifd_on_cancel = multifd.get();
    statistics.multifd_channels = count;
  }
  return cancel.token().check();
}

void Source::Impl::run(const Open& open) {
  state_before = machine.state();
  number_sections();
  auto whole = [&]() -> Status {
    HANDOVER_TRY(open_channels(open));
    writer = std::make_unique<StreamWriter>(*channel);
    HANDOVER_TRY(setup());
    if (snapshot) return save_snapshot();
    HANDOVER_TRY(iterate());
    HANDOVER_TRY(switch_over());
    return commit();
  }();
  if (!whole) back_out(std::move(whole).error());
}

void Source::Impl::set_status(MigrationStatus to) {
  {
    std::lock_guard lock(mutex);
    if (statistics.status == to) return;
    HANDOVER_TRACE(migration_status, to_string(statistics.status).data(), to_string(to).data());
    statistics.status = to;
    if (started != Clock::time_point{})
      statistics.total_ms = static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - started).count());
  }
  if (options.on_status) options.on_status(to);
  changed.notify_all();
}

Parameters Source::Impl::current_parameters() const {
  std::lock_guard lock(mutex);
  return options.parameters;
}

Source::Source(Machine& machine, RamMigration* ram, Options options)
    : impl_(std::make_unique<Impl>(machine, ram, std::move(options))) {
  impl_->limiter.set_rate(impl_->options.parameters.max_bandwidth);
}

Source::~Source() = default;

void Source::start(Address to) {
  const bool peer = to.kind != Address::Kind::file;
  impl_->launch([this, to = std::move(to)] { return connect_channel(to, impl_->cancel.token()); }, peer);
}

void Source::start(std::unique_ptr<Channel> channel) {
  auto held = std::make_shared<std::unique_ptr<Channel>>(std::move(channel));
  impl_->launch(
      [held]() -> Result<std::unique_ptr<Channel>> {
        if (!*held) return fail(Errc::unsupported, "multifd needs an address to connect to");
        return std::move(*held);
      },
      true);
}

MigrationStatus Source::status() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->statistics.status;
}

Statistics Source::statistics() const {
  Statistics copy;
  {
    std::lock_guard lock(impl_->mutex);
    copy = impl_->statistics;
    if (!is_final(copy.status) && copy.status != MigrationStatus::none)
      copy.total_ms = static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(Impl::Clock::now() - impl_->started).count());
  }
  copy.total_bytes = impl_->ram ? impl_->machine.memory().size() : 0;
  if (const auto* ram = impl_->ram) {
    copy.dirty_sync_count = ram->sync_count();
    copy.dirty_pages_rate = ram->dirty_pages_rate();
    copy.rounds = ram->rounds();
  }
  return copy;
}

void Source::set_parameters(const Parameters& parameters) {
  std::lock_guard lock(impl_->mutex);
  impl_->options.parameters = parameters;
  impl_->limiter.set_rate(parameters.max_bandwidth);
}

Status Source::cancel() {
  {
    std::lock_guard lock(impl_->mutex);
    const auto status = impl_->statistics.status;
    if (status == MigrationStatus::in_doubt)
      return fail(Errc::state,
                  "the machine was given up and the destination has not answered; "
                  "settle it with `handover resolve`");
    if (is_final(status) || status == MigrationStatus::none) return {};
    if (impl_->committed)
      return fail(
          Errc::state, "too late to cancel: {}",
          impl_->snapshot ? "the snapshot is whole" : "the machine has been given up to the destination");
    impl_->cancel.cancel("cancelled by request");
  }
  impl_->shut_channels();
  impl_->changed.notify_all();
  return {};
}

Status Source::continue_switchover() {
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->statistics.status != MigrationStatus::pre_switchover)
      return fail(Errc::state, "the migration is in status {}, not pre-switchover",
                  to_string(impl_->statistics.status));
    impl_->continue_asked = true;
  }
  impl_->changed.notify_all();
  return {};
}

Status Source::resolve(bool resume) {
  if (status() != MigrationStatus::in_doubt)
    return fail(Errc::state, "nothing to resolve: the migration is {}", to_string(status()));
  if (resume) {
    HANDOVER_TRY(impl_->machine.loop().call([&]() -> Status {
      HANDOVER_TRY(impl_->machine.set_stopped_state(RunState::paused));
      return impl_->state_before == RunState::running ? impl_->machine.start() : Status{};
    }));
    impl_->note([](Statistics& all) { all.error = "resolved by a person: the machine runs on here"; });
    impl_->set_status(MigrationStatus::failed);
  } else {
    impl_->note([](Statistics& all) { all.error = "resolved by a person: the machine was given up"; });
    impl_->set_status(MigrationStatus::completed);
  }
  return {};
}

MigrationStatus Source::wait() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return is_final(impl_->statistics.status); });
  return impl_->statistics.status;
}

}  // namespace handover
