// The road of an outgoing migration from the machine's stop on: switch over, commit; and the way back.

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/stream/command.h"
#include "migration/source_impl.h"

namespace handover {
namespace {

double ms_between(Source::Impl::Clock::time_point from, Source::Impl::Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

/// Measures the parts of the downtime: each lap is what has passed since the one before.
class Laps {
 public:
  explicit Laps(Source::Impl::Clock::time_point start) : last_(start) {}
  double lap() {
    const auto now = Source::Impl::Clock::now();
    return ms_between(std::exchange(last_, now), now);
  }

 private:
  Source::Impl::Clock::time_point last_;
};

}  // namespace

Status Source::Impl::wait_for_continue() {
  set_status(MigrationStatus::pre_switchover);
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, cancel.token().stop(), [&] { return continue_asked; });
  }
  return cancel.token().check();
}

// What went over the channels is counted when it is out.
Status Source::Impl::finish_channels(ParallelSaver* devices, std::uint64_t ram_before) {
  if (devices) HANDOVER_TRY(devices->wait());
  HANDOVER_TRY(multifd->drain(cancel.token()));
  std::size_t saved = 0;
  for (const auto& entry : entries) {
    if (devices && entry.item->has_parallel_state())
      account(entry, Phase::downtime, devices->sent()[saved++]);
    if (entry.item == ram) account(entry, Phase::downtime, multifd->counters().bytes - ram_before);
  }
  return {};
}

Status Source::Impl::switch_over() {
  HANDOVER_TRACE(phase, "switchover");
  stopped = Clock::now();
  Laps laps(stopped);
  DowntimeParts parts;
  auto stop = machine.loop().call([&]() -> Status {
    // The guest may have stopped by itself, or by a person's command, since the migration began.
    state_before = machine.state();
    if (state_before == RunState::guest_panicked || state_before == RunState::internal_error)
      return fail(Errc::state, "the machine is in run state {}: {}", to_string(state_before),
                  machine.trouble());
    have_stopped_machine = true;
    return machine.stop(RunState::finish_migrate);
  });
  HANDOVER_TRY(stop);
  global_state = GlobalState(state_before);
  parts.stop = laps.lap();
  if (options.capabilities.pause_before_switchover) {
    HANDOVER_TRY(wait_for_continue());
    laps.lap();  // a person's time is not the device's
  }

  set_status(MigrationStatus::device);
  HANDOVER_TRY(write_states(true));
  stream::write_command(*writer, stream::Command::switchover_start);
  HANDOVER_TRY(writer->flush());
  const auto ram_before = multifd ? multifd->counters().bytes : 0;
  std::optional<ParallelSaver> devices;
  if (save_options.parallel) {
    devices.emplace(*multifd, *answers, cancel.token());
    for (const auto& entry : entries)
      if (entry.item->has_parallel_state()) devices->start(*entry.item, entry.id);
  }
  HANDOVER_TRY(write_ends(true));
  parts.final_ram = laps.lap();
  HANDOVER_TRY(write_ends(false));
  if (multifd) HANDOVER_TRY(finish_channels(devices ? &*devices : nullptr, ram_before));
  HANDOVER_TRY(write_states(false));
  parts.device_state = laps.lap();
  if (answers) {
    HANDOVER_TRACE(ping_ready);
    stream::write_ping(*writer, kPingReady);
    HANDOVER_TRY(writer->flush());
    HANDOVER_TRY(answers->wait_for_pong(kPingReady, cancel.token()));
    HANDOVER_TRACE(pong_ready);
  }
  parts.load = laps.lap();
  note([&](Statistics& all) { all.downtime_parts = parts; });
  return {};
}

Status Source::Impl::give_up() {
  return machine.loop().call([&] { return machine.set_stopped_state(RunState::postmigrate); });
}

Status Source::Impl::commit() {
  HANDOVER_TRACE(phase, "commit");
  return has_peer ? commit_to_peer() : commit_to_file();
}

Status Source::Impl::commit_to_peer() {
  Laps laps(Clock::now());
  {
    std::lock_guard lock(mutex);
    HANDOVER_TRY(cancel.token().check());
    committed = true;
  }
  // From here on this side never runs again by itself.  A device that cannot leave its saving state does
  // not matter any more: its state has been loaded on the other side.
  if (auto given = give_up(); !given) log::error("giving the machine up: {}", given.error().to_string());
  auto marked = write_end_mark();
  if (marked) channel->finish_writing();
  HANDOVER_TRACE(mark_sent, marked.has_value() ? 1 : 0);
  note([&](Statistics& all) { all.downtime_parts.commit = laps.lap(); });
  if (!marked) {
    enter_doubt(fmt::format("the connection broke while the machine was handed over ({})",
                            marked.error().to_string()));
    return {};
  }
  if (!answers) {
    if (auto done = channel->commit(); !done) {
      enter_doubt(done.error().to_string());
      return {};
    }
    finish(MigrationStatus::completed);
    return {};
  }
  auto answer = answers->wait_for_shut(options.answer_timeout, cancel.token());
  note([&](Statistics& all) { all.downtime_parts.start = laps.lap(); });
  if (answer && *answer == kShutLoaded)
    finish(MigrationStatus::completed);
  else if (answer)
    enter_doubt(fmt::format(
        "the destination has the machine and reports that it could not start it (error {})", *answer));
  else
    enter_doubt(answer.error().to_string());
  return {};
}

void Source::Impl::enter_doubt(std::string why) {
  log::warn("in doubt: {}", why);
  note([&](Statistics& all) { all.error = std::move(why); });
  finish(MigrationStatus::in_doubt);
}

void Source::Impl::cleanup_items() {
  for (const auto& entry : entries)
    entry.item->cleanup();
  // Channels count behind what was handed to them; now the counts are final.
  note([&](Statistics& all) {
    for (const auto& entry : entries) {
      const auto counters = entry.item->counters();
      all.items[entry.id].normal_pages = counters.normal_pages;
      all.items[entry.id].zero_pages = counters.zero_pages;
    }
  });
}

void Source::Impl::finish(MigrationStatus final_status) {
  note([&](Statistics& all) {
    if (stopped != Clock::time_point{}) {
      const auto& parts = all.downtime_parts;
      all.downtime_ms =
          parts.stop + parts.final_ram + parts.device_state + parts.load + parts.commit + parts.start;
    }
    all.transferred = transferred();
    all.multifd_bytes = multifd ? multifd->bytes() : 0;
    all.remaining = 0;
    for (auto& item : all.items)
      item.pending_bytes = 0;
    shut_on_cancel = nullptr;
    multifd_on_cancel = nullptr;
  });
  cleanup_items();
  answers.reset();
  mapped_ram.reset();
  multifd.reset();
  channel.reset();
  set_status(final_status);
}

void Source::Impl::back_out(Error why) {
  const bool was_cancelled = cancel.cancelled();
  HANDOVER_TRACE(phase, "back-out");
  set_status(was_cancelled ? MigrationStatus::cancelling : MigrationStatus::failing);
  note([&](Statistics& all) {
    all.error = why.to_string();
    shut_on_cancel = nullptr;
    multifd_on_cancel = nullptr;
  });
  if (channel) channel->shutdown();
  if (multifd) multifd->shutdown();
  answers.reset();
  if (have_stopped_machine) {
    auto back = machine.loop().call([&]() -> Status {
      // A guest that panicked, or a machine that a failing device brought down, stays as it is.
      if (machine.state() != (snapshot ? RunState::save_vm : RunState::finish_migrate)) return {};
      return state_before == RunState::running ? machine.start() : machine.set_stopped_state(state_before);
    });
    if (!back) {
      log::error("after the failed migration: {}", back.error().to_string());
      note([&](Statistics& all) { all.error += "; and then " + back.error().to_string(); });
    }
  }
  cleanup_items();
  // Whether or not it was stopped: the machine does not run on with a device that cannot.
  if (auto fit = machine.loop().call([&] { return machine.check_listeners(); }); !fit)
    note([&](Statistics& all) { all.error += "; and then the machine stopped: " + fit.error().to_string(); });
  mapped_ram.reset();
  multifd.reset();
  if (channel) channel->discard();
  channel.reset();
  snapshot_file.reset();
  set_status(was_cancelled ? MigrationStatus::cancelled : MigrationStatus::failed);
}

}  // namespace handover
