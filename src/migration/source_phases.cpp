// The road of an outgoing migration: setup, iterate, switch over, commit; and the way back.

#include <algorithm>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/stream/command.h"
#include "handover/stream/configuration.h"
#include "handover/stream/section.h"
#include "migration/source_impl.h"

namespace handover {
namespace {

/// A pass that found nothing to send waits this long before it asks again.
constexpr std::chrono::milliseconds kQuietPause{10};
/// One turn of an item at most: so long that sections cost nothing, so short that a cancel is quick.
constexpr std::uint64_t kMostPerTurn = 32 * MiB;
constexpr std::uint64_t kLeastPerTurn = 1 * MiB;

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

Status Source::Impl::check_alive() const {
  HANDOVER_TRY(cancel.token().check());
  // What the destination says of a failure says more than a broken channel.
  if (answers) HANDOVER_TRY(answers->check());
  return multifd ? multifd->check() : Status{};
}

Status Source::Impl::setup() {
  HANDOVER_TRACE(phase, "setup");
  note([&](Statistics& all) { all.remaining = ram ? machine.memory().size() : 0; });
  for (const auto& entry : entries)
    HANDOVER_TRY(entry.item->prepare());
  if (snapshot) HANDOVER_TRY(stand_still());

  stream::write_header(*writer, configuration());
  if (options.capabilities.return_path && channel->two_way()) {
    stream::write_command(*writer, stream::Command::open_return_path);
    stream::write_ping(*writer, kPingOpened);
    stream::write_ping(*writer, kPingProgress);
    HANDOVER_TRY(writer->flush());
    answers = std::make_unique<ReturnPathListener>(*channel, entries.size());
  }
  // Without answers nobody would say how much may wait.
  save_options = {.parallel = multifd && answers,
                  .switchover_ack = options.capabilities.switchover_ack && answers,
                  .stopped = snapshot.has_value()};
  HANDOVER_TRY(open_page_file());
  if (ram && multifd) ram->set_page_sink(multifd.get());
  if (save_options.parallel)
    for (const auto& entry : entries)
      if (entry.item->has_parallel_state()) convergence.set_parallel(entry.id);
  HANDOVER_TRY(write_early());
  HANDOVER_TRY(write_starts());
  note(
      [&](Statistics& all) { all.setup_ms = static_cast<std::uint64_t>(ms_between(started, Clock::now())); });
  return {};
}

Status Source::Impl::ask_pending(bool exact) {
  left.assign(entries.size(), {});
  Pending sum;
  for (const auto& entry : entries) {
    if (!entry.item->is_live()) continue;
    HANDOVER_ASSIGN_CONTEXT(left[entry.id], entry.item->pending(exact), "asking {} what is left",
                            entry.item->display_name());
    sum.must_stop += left[entry.id].must_stop;
    sum.can_precopy += left[entry.id].can_precopy;
    if (!answers) continue;
    const auto there = answers->progress(entry.id);
    convergence.loaded(entry.id, there.bytes, std::chrono::nanoseconds(there.busy_ns));
  }
  note_estimate(sum);
  can_precopy = sum.can_precopy;
  if (exact && ram) {
    const auto count = ram->sync_count();
    HANDOVER_TRACE(dirty_sync, count, sum.can_precopy, sum.must_stop);
    if (count > 1 && options.on_pass) options.on_pass(count);
  }
  return {};
}

void Source::Impl::note_estimate(const Pending& sum) {
  const auto parameters = current_parameters();
  note([&](Statistics& all) {
    for (const auto& entry : entries) {
      auto& item = all.items[entry.id];
      item.pending_bytes = left[entry.id].total();
      item.size_unknown = left[entry.id].size_unknown;
      item.send_rate = convergence.send_rate(entry.id);
      item.load_rate = convergence.load_rate(entry.id);
      item.acks_wanted = entry.item->acks_wanted();
    }
    all.switchover_acks = answers ? answers->acks() : 0;
    all.remaining = sum.total();
    all.throughput = convergence.bandwidth();
    all.expected_downtime_ms = std::max(0.0, convergence.expected_downtime_ms(left, parameters));
  });
}

Result<std::uint64_t> Source::Impl::acks_outstanding() const {
  if (!answers || !machine.running()) return 0;
  // Received first: a request that comes between is only counted early.
  const auto received = answers->acks();
  std::uint64_t wanted = 0;
  for (const auto& entry : entries)
    wanted += entry.item->acks_wanted();
  if (received > wanted)
    return fail(Errc::protocol, "the destination acknowledged {} times and was asked {}", received, wanted);
  return wanted - received;
}

Result<Iterated> Source::Impl::write_part(const Entry& entry, std::uint64_t most) {
  HANDOVER_TRY(check_alive());
  HANDOVER_TRY(limiter.wait(cancel.token()));
  const auto begin = Clock::now();
  const auto before = sent_by(entry);
  stream::write_section_header(*writer, {.kind = stream::Record::section_part, .id = entry.id});
  HANDOVER_ASSIGN_CONTEXT(auto outcome,
                          entry.item->save_iterate(*writer, {.bytes = most, .cancel = cancel.token()}),
                          "saving {}", entry.item->display_name());
  stream::write_section_footer(*writer, entry.id);
  HANDOVER_TRY(writer->flush());
  const auto bytes = sent_by(entry) - before;
  limiter.count(bytes);
  convergence.sent(entry.id, bytes, Clock::now() - begin);
  account(entry, Phase::precopy, bytes);
  return outcome;
}

Result<Source::Impl::Quiet> Source::Impl::pass() {
  Quiet quiet{.ram = true, .all = true};
  const auto rate = limiter.rate();
  auto most =
      std::clamp(static_cast<std::uint64_t>(convergence.bandwidth() / 20), kLeastPerTurn, kMostPerTurn);
  if (rate != 0) most = std::min(most, std::max<std::uint64_t>(rate / 10, kPageSize));
  for (const auto& entry : entries) {
    if (!entry.item->is_live()) continue;
    // A turn is the same number of bytes for everybody, so that a device keeps up with RAM and yet cannot
    // hold up the others (mission C2).
    auto now = sent_by(entry);
    const auto end = now + most;
    auto outcome = Iterated::more;
    for (; outcome == Iterated::more && now < end; now = sent_by(entry)) {
      HANDOVER_ASSIGN(outcome, write_part(entry, end - now));
      // Its pages are counted when they are out, and it hands over a whole turn at once.
      if (entry.item == ram && multifd) break;
    }
    if (outcome == Iterated::more) {
      quiet.all = false;
      if (entry.item == ram) quiet.ram = false;
    }
  }
  return quiet;
}

Status Source::Impl::iterate() {
  HANDOVER_TRACE(phase, "active");
  set_status(MigrationStatus::active);
  for (;;) {
    HANDOVER_TRY(check_alive());
    HANDOVER_TRY(acks_outstanding());
    HANDOVER_ASSIGN(const auto quiet, pass());
    if (quiet.all) convergence.settle();
    HANDOVER_TRY(ask_pending(false));
    const auto parameters = current_parameters();
    // Between two passes over memory only: pages that can go while the machine runs should, even if the rest
    // of the pass would fit into the allowed downtime.
    if (!quiet.ram || (!quiet.all && !convergence.fits(left, parameters))) continue;
    // Everything known has gone out, or what is left fits: now ask what was written meanwhile.
    HANDOVER_TRY(ask_pending(true));
    HANDOVER_ASSIGN(const auto acks, acks_outstanding());
    if (acks == 0 && convergence.fits(left, parameters) &&
        !convergence.worth_another_pass(left, parameters)) {
      for (const auto& entry : entries)
        if (left[entry.id].size_unknown)
          log::warn("{} cannot tell how much it will send stopped; the downtime may be longer than expected",
                    entry.item->display_name());
      note([](Statistics& all) { all.predicted_downtime_ms = all.expected_downtime_ms; });
      return {};
    }
    if (!quiet.all || can_precopy > 0) continue;
    // Nothing can move now, and something holds the switchover: do not spin.
    auto pause = wait_fd(-1, 0, cancel.token(), Clock::now() + kQuietPause);
    if (!pause && pause.error().code() != Errc::timeout) return std::unexpected(std::move(pause).error());
  }
}

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
  HANDOVER_TRY(write_states());
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
