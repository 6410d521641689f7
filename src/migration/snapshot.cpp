// A snapshot: the road of a migration into a file, taken by a machine that stands still and goes on
// afterwards.

#include "handover/migration/snapshot.h"

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/stream/command.h"
#include "migration/source_impl.h"

namespace handover {
namespace {

/// RAM goes in pieces of this size, so that progress is seen and a cancel is quick.
constexpr std::uint64_t kPiece = 32 * MiB;

}  // namespace

void Source::start(SnapshotPlan plan) {
  impl_->snapshot = std::move(plan);
  impl_->launch(
      [this]() -> Result<std::unique_ptr<Channel>> {
        HANDOVER_ASSIGN(impl_->snapshot_file, SnapshotFile::create(impl_->snapshot->path));
        return connect_channel(impl_->snapshot_file->partial(), impl_->cancel.token());
      },
      false);
}

// The devices go into their saving state at once, without a pre-copy (mission A5): nothing is gained by
// moving data early when the machine stands still for all of it.
Status Source::Impl::stand_still() {
  stopped = Clock::now();
  auto stop = machine.loop().call([&]() -> Status {
    state_before = machine.state();
    if (state_before != RunState::running && state_before != RunState::paused)
      return fail(Errc::state, "a machine in run state {} cannot be saved", to_string(state_before));
    have_stopped_machine = true;
    return machine.stop(RunState::save_vm);
  });
  HANDOVER_TRY(stop);
  global_state = GlobalState(state_before);
  note([&](Statistics& all) { all.downtime_parts.stop = ms_since(stopped); });
  return {};
}

double Source::Impl::ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

Status Source::Impl::save_memory(const Entry& memory) {
  auto outcome = Iterated::more;
  while (outcome == Iterated::more) {
    HANDOVER_TRY(check_alive());
    const auto begin = Clock::now();
    const auto before = transferred();
    HANDOVER_TRY(write_section(stream::Record::section_part, memory, Phase::downtime, [&]() -> Status {
      HANDOVER_ASSIGN(outcome,
                      memory.item->save_iterate(*writer, {.bytes = kPiece, .cancel = cancel.token()}));
      return {};
    }));
    HANDOVER_TRY(writer->flush());
    convergence.sent(memory.id, transferred() - before, Clock::now() - begin);
    HANDOVER_TRY(ask_pending(false));
  }
  return {};
}

Status Source::Impl::save_snapshot() {
  HANDOVER_TRACE(phase, "snapshot");
  set_status(MigrationStatus::active);
  auto begin = Clock::now();
  for (const auto& entry : entries)
    if (entry.item == ram) HANDOVER_TRY(save_memory(entry));
  set_status(MigrationStatus::device);
  HANDOVER_TRY(write_states(true));
  stream::write_command(*writer, stream::Command::switchover_start);
  HANDOVER_TRY(write_ends(true));
  note([&](Statistics& all) { all.downtime_parts.final_ram = ms_since(begin); });
  begin = Clock::now();
  HANDOVER_TRY(write_ends(false));
  HANDOVER_TRY(write_states(false));
  note([&](Statistics& all) { all.downtime_parts.device_state = ms_since(begin); });
  return publish_snapshot();
}

Status Source::Impl::publish_snapshot() {
  HANDOVER_TRACE(phase, "commit");
  const auto begin = Clock::now();
  HANDOVER_TRY(write_end_mark());
  HANDOVER_TRY_CONTEXT(channel->commit(), "making {} durable", channel->name());
  if (const auto now = machine.state(); now != RunState::save_vm)
    return fail(Errc::state, "the machine went to run state {} while it was saved: {}", to_string(now),
                machine.trouble());
  {
    std::lock_guard lock(mutex);
    HANDOVER_TRY(cancel.token().check());
    committed = true;
  }
  HANDOVER_TRY(snapshot_file->publish());
  note([&](Statistics& all) { all.downtime_parts.commit = ms_since(begin); });
  const auto resume = Clock::now();
  const bool run = state_before == RunState::running && !snapshot->stay_stopped;
  auto resumed = machine.loop().call(
      [&] { return run ? machine.start() : machine.set_stopped_state(RunState::paused); });
  note([&](Statistics& all) {
    all.downtime_parts.start = ms_since(resume);
    if (!resumed)
      all.error = fmt::format("{} is whole, but the machine does not go on: {}", snapshot->path,
                              resumed.error().to_string());
  });
  if (!resumed) log::error("after the snapshot: {}", resumed.error().to_string());
  snapshot_file.reset();
  finish(resumed ? MigrationStatus::completed : MigrationStatus::failed);
  return {};
}

}  // namespace handover
