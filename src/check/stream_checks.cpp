// The stream of state that a device gives.

#include "check/case.h"
#include "check/clauses.h"
#include "check/odd_pieces.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::to_string;
using Kind = vfio::StateRead::Kind;

namespace {

constexpr std::uint64_t kPreCopy = vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;
// Enough to be amid something, and read soon.
constexpr std::uint64_t kSome = 64 * KiB;
constexpr int kReadsAfterTheEnd = 3;

using Body = std::function<Result<Finding>(Bench&)>;

void add(std::vector<Case>& cases, std::string id, std::string what, const char* clause,
         std::uint64_t features, Body body) {
  Case made;
  made.about = {std::move(id), std::move(what), clause};
  made.features = features;
  made.body = std::move(body);
  cases.push_back(std::move(made));
}

Result<Finding> end_is_an_end(Bench& bench) {
  SavedState state;
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(state));
  for (int i = 0; i < kReadsAfterTheEnd; ++i) {
    HANDOVER_ASSIGN_CONTEXT(const auto got, bench.read_some(), "after the end");
    if (got.kind != Kind::end || got.bytes != 0)
      return fail(Errc::protocol, "after the end of {} bytes a read gave {} more", state.bytes.size(),
                  got.bytes);
  }
  HANDOVER_TRY(bench.expect(DeviceState::stop_copy));
  return passed(fmt::format("{} bytes", state.bytes.size()));
}

Result<Finding> pause_is_no_end(Bench& bench) {
  HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
  SavedState state;
  HANDOVER_ASSIGN(const auto paused, bench.read_to_pause(state, bench.options().max_state));
  // A second look must not be held against the first.
  HANDOVER_TRY(bench.read_to_pause(state, kSome));
  HANDOVER_TRY(bench.expect(DeviceState::pre_copy));
  const auto before = state.bytes.size();
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(state));
  auto note = fmt::format("{} bytes before the stop, {} after it", before, state.bytes.size() - before);
  return passed(paused ? note : note + "; it never paused");
}

Result<Finding> unread_data_stays(Bench& bench) {
  HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
  SavedState state;
  HANDOVER_TRY(bench.read_a_little(state));
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(state));
  return passed();
}

Result<Finding> abort_stop_copy(Bench& bench) {
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_some());
  HANDOVER_TRY(bench.ask(DeviceState::stop));
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(bench.works());
  return passed();
}

Result<Finding> abort_pre_copy(Bench& bench) {
  for (int i = 0; i < 2; ++i) {
    HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
    SavedState some;
    HANDOVER_TRY(bench.read_to_pause(some, kSome));
    HANDOVER_TRY(bench.ask(DeviceState::running));
  }
  HANDOVER_TRY(bench.works());
  return passed();
}

Result<Finding> twice(Bench& bench) {
  HANDOVER_ASSIGN_CONTEXT(const auto first, bench.save(), "the first time");
  HANDOVER_ASSIGN_CONTEXT(const auto second, bench.save(), "the second time");
  return passed(fmt::format("{} and {} bytes", first.bytes.size(), second.bytes.size()));
}

Case read_in(DeviceState state) {
  Case made = case_in(state);
  made.about = {fmt::format("stream.read.{}", to_string(state)),
                fmt::format("reading state in {} is refused", to_string(state)), clause::kWrongState,
                made.loads};
  made.body = [state](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(state));
    HANDOVER_TRY(bench.refused(bench.read_some(), fmt::format("reading in {}", to_string(state))));
    HANDOVER_TRY(bench.expect(state));
    if (state == DeviceState::resuming) HANDOVER_TRY(bench.finish_load());
    return passed();
  };
  return made;
}

Case write_in(DeviceState state) {
  Case made = case_in(state);
  made.about = {fmt::format("stream.write.{}", to_string(state)),
                fmt::format("writing state in {} is refused", to_string(state)), clause::kWrongState};
  made.body = [state](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(state));
    HANDOVER_TRY(bench.refuses_writing());
    if (vfio::is_saving(state)) HANDOVER_TRY(bench.read_some());
    return passed();
  };
  return made;
}

}  // namespace

void add_stream_checks(std::vector<Case>& cases) {
  constexpr auto kAny = vfio::kMigrationStopCopy;
  add(cases, "stream.end", "the state ends in stop-copy, and stays ended when it is read again", clause::kEnd,
      kAny, end_is_an_end);
  add(cases, "stream.pre-copy.pause", "nothing more in pre-copy is a pause: stop-copy still gives the rest",
      clause::kPause, kPreCopy, pause_is_no_end);
  add(cases, "stream.pre-copy.unread", "what was not read in pre-copy does not keep stop-copy from its end",
      clause::kSessionKept, kPreCopy, unread_data_stays);
  for (const auto size : kOddPieces) {
    add(cases, fmt::format("stream.pieces.{}", size),
        fmt::format("the state comes to its end when it is read in pieces of {} bytes", size), clause::kCuts,
        kAny, [size](Bench& bench) -> Result<Finding> {
          HANDOVER_ASSIGN(const auto state, bench.save(odd_cut(size)));
          return passed(fmt::format("{} bytes", state.bytes.size()));
        });
    cases.back().cuts = true;
  }
  add(cases, "stream.twice", "the device can be saved twice in a row", clause::kArc, kAny, twice);
  add(cases, "stream.abort.stop-copy", "a save given up in stop-copy leaves a device that can be saved again",
      clause::kEnds, kAny, abort_stop_copy);
  add(cases, "stream.abort.pre-copy", "a save given up in pre-copy leaves a device that can be saved again",
      clause::kEnds, kPreCopy, abort_pre_copy);
  for (const auto state : all_states())
    if (!vfio::is_saving(state)) cases.push_back(read_in(state));
  for (const auto state : all_states())
    if (state != DeviceState::resuming) cases.push_back(write_in(state));
}

}  // namespace handover::check
