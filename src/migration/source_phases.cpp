// The road of an outgoing migration while the machine runs: setup and iterate.

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
  note_tracking();
  note([&](Statistics& all) { all.setup_ms = static_cast<std::uint64_t>(ms_since(started)); });
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
    note_tracking();
    const auto count = ram->sync_count();
    HANDOVER_TRACE(dirty_sync, count, sum.can_precopy, sum.must_stop);
    if (count > 1 && options.on_pass) options.on_pass(count);
  }
  return {};
}

// A tracker that fails may have given way to another.
void Source::Impl::note_tracking() {
  if (!ram || save_options.stopped) return;
  note([&](Statistics& all) { all.dirty_tracking = ram->dirty_tracking(); });
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

}  // namespace handover
