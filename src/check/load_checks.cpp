// Loading: what the device gave must be taken in any cut, and what it did not give must not be taken in
// silence.

#include <algorithm>
#include <random>

#include "check/case.h"
#include "check/clauses.h"
#include "check/odd_pieces.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::to_string;

namespace {

constexpr std::uint64_t kPreCopy = vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;
constexpr std::uint64_t kSome = 64 * KiB;

using Body = std::function<Result<Finding>(Bench&)>;

// What the device says when it is given bytes and told that this is all.
struct Judged {
  std::optional<Error> write;  // refused here
  std::optional<Error> stop;   // refused here
};

Result<Judged> judge(Bench& bench, const Bytes& bytes) {
  HANDOVER_TRY(bench.enter(DeviceState::resuming));
  Judged judged;
  if (auto written = bench.write(bench.in_pieces_of_the_sample(bytes)); !written) {
    HANDOVER_TRY(bench.is_refusal(written.error()));
    judged.write = written.error();
  }
  if (auto stopped = bench.migration().set_state(DeviceState::stop); !stopped) {
    HANDOVER_TRY(bench.is_refusal(stopped.error()));
    judged.stop = stopped.error();
    HANDOVER_ASSIGN_CONTEXT(const auto now, bench.migration().state(), "the state could not be read");
    if (now != DeviceState::resuming && now != DeviceState::error)
      return fail(Errc::state, "the device refused the state that came, and yet is in {}", to_string(now));
  } else {
    HANDOVER_TRY(bench.expect(DeviceState::stop));
  }
  return judged;
}

// After a refusal (or worse) a reset must give a device that works.
Status recover(Bench& bench) {
  HANDOVER_TRY(bench.reset());
  HANDOVER_TRY_CONTEXT(bench.expect(DeviceState::running), "after a reset");
  return bench.works();
}

enum class Silence {
  fails,  // whoever accepts this runs a wrong device
  warns,  // it need not be noticed
};

Result<Finding> must_judge(Bench& bench, const Bytes& bytes, std::string_view what, Silence silence) {
  HANDOVER_ASSIGN(const auto judged, judge(bench, bytes));
  HANDOVER_TRY(recover(bench));
  if (judged.stop) return passed();
  if (judged.write)
    return warned(
        "a write was refused and then stop was granted: whoever loads must give up at the write's error");
  if (silence == Silence::fails) return fail(Errc::device, "{} was accepted", what);
  return warned(fmt::format("{} was accepted: the transport must see that nothing is altered", what));
}

void add(std::vector<Case>& cases, std::string id, std::string what, const char* clause, Body body,
         std::uint64_t features = vfio::kMigrationStopCopy) {
  Case made;
  made.about = {std::move(id), std::move(what), clause, true};
  made.features = features;
  made.loads = true;
  made.body = std::move(body);
  cases.push_back(std::move(made));
}

/// `change` makes the wrong state of the right one; empty if the right one is too short for it.
void add_wrong(std::vector<Case>& cases, std::string id, std::string what, Silence silence,
               std::function<std::optional<Bytes>(Bytes)> change) {
  const auto sentence = silence == Silence::fails
                            ? what + " is refused, and a reset makes the device work again"
                            : what + " leaves a device that a reset makes work again";
  add(cases, "load." + std::move(id), sentence, silence == Silence::fails ? clause::kJudge : clause::kFound,
      [what, silence, change = std::move(change)](Bench& bench) -> Result<Finding> {
        const auto bytes = change(bench.sample().bytes);
        if (!bytes)
          return not_offered(fmt::format("the state has {} bytes only", bench.sample().bytes.size()));
        return must_judge(bench, *bytes, what, silence);
      });
  cases.back().resets = true;
}

Result<Finding> whole(Bench& bench) {
  HANDOVER_TRY(bench.load(bench.sample()));
  HANDOVER_TRY(bench.works());
  return passed();
}

Result<Finding> in_pieces(Bench& bench, std::size_t size) {
  HANDOVER_ASSIGN(const auto state, bench.save(odd_cut(size)));
  HANDOVER_TRY(bench.enter(DeviceState::resuming));
  HANDOVER_TRY(bench.write(state.bytes, odd_cut(size)));
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(bench.works());
  return passed();
}

// As a live migration reads it: in every saving state on the way.
Result<Finding> from_pre_copy(Bench& bench) {
  SavedState state;
  HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
  HANDOVER_TRY(bench.read_to_pause(state, bench.options().max_state));
  if (bench.has(DeviceState::pre_copy_p2p)) {
    HANDOVER_TRY(bench.ask(DeviceState::pre_copy_p2p));
    HANDOVER_TRY(bench.read_to_pause(state, kSome));
  }
  HANDOVER_TRY(bench.ask(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(state));
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(bench.load(state));
  HANDOVER_TRY(bench.works());
  return passed();
}

Result<Finding> from_unread_pre_copy(Bench& bench) {
  SavedState state;
  HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
  HANDOVER_TRY(bench.read_a_little(state));
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(state));
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(bench.load(state));
  HANDOVER_TRY(bench.works());
  return passed();
}

Result<Finding> both_of_two(Bench& bench) {
  HANDOVER_ASSIGN(const auto first, bench.save());
  HANDOVER_ASSIGN(const auto second, bench.save());
  HANDOVER_TRY_CONTEXT(bench.load(first), "the first of two saved states");
  HANDOVER_TRY_CONTEXT(bench.load(second), "the second of two saved states");
  HANDOVER_TRY(bench.works());
  return passed();
}

// Whoever asks for the state that is there, or for one that is refused, must not lose what he is reading.
Result<Finding> undisturbed(Bench& bench) {
  SavedState state;
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_part(state));
  HANDOVER_TRY(bench.ask(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_part(state));
  HANDOVER_TRY(bench.refuses(vfio::kDeviceStateCount));
  HANDOVER_TRY(bench.read_to_end(state));
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(bench.load(state));
  HANDOVER_TRY(bench.works());
  return passed();
}

// In STOP nothing changes, so what is saved there is what was loaded, if the device saves alike at all.
Result<Finding> round_trip(Bench& bench) {
  SavedState loaded, again;
  HANDOVER_TRY(bench.enter(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(loaded));
  HANDOVER_TRY(bench.ask(DeviceState::stop));
  HANDOVER_TRY(bench.ask(DeviceState::stop_copy));
  HANDOVER_TRY(bench.read_to_end(again));
  const bool alike = loaded.bytes == again.bytes;
  HANDOVER_TRY(bench.enter(DeviceState::resuming));
  HANDOVER_TRY(bench.write(loaded));
  HANDOVER_TRY(bench.ask(DeviceState::stop));
  HANDOVER_TRY(bench.ask(DeviceState::stop_copy));
  SavedState after;
  HANDOVER_TRY(bench.read_to_end(after));
  if (!alike) return passed("not comparable: the device never gives the same bytes twice");
  if (after.bytes == loaded.bytes) return passed("the same bytes");
  if (after.bytes.size() < loaded.bytes.size())
    return fail(Errc::device, "{} bytes were loaded and {} saved again, without the device having run",
                loaded.bytes.size(), after.bytes.size());
  return warned(fmt::format("what is saved after a load ({} bytes) differs from what was loaded ({} bytes)",
                            after.bytes.size(), loaded.bytes.size()));
}

Result<Finding> after_a_refusal(Bench& bench) {
  // Half of it, and given up.
  HANDOVER_TRY(bench.enter(DeviceState::resuming));
  auto bytes = bench.sample().bytes;
  bytes.resize(bytes.size() / 2);
  HANDOVER_TRY(bench.write(bench.in_pieces_of_the_sample(std::move(bytes))));
  HANDOVER_TRY(bench.reset());
  HANDOVER_TRY_CONTEXT(bench.expect(DeviceState::running), "after a reset");
  HANDOVER_TRY(bench.load(bench.sample()));
  HANDOVER_TRY(bench.works());
  return passed();
}

std::optional<Bytes> inverted(Bytes bytes, double where) {
  if (bytes.empty()) return std::nullopt;
  const auto at = static_cast<std::size_t>(where * static_cast<double>(bytes.size() - 1));
  bytes[at] = ~bytes[at];
  return bytes;
}

void add_wrong_states(std::vector<Case>& cases) {
  add_wrong(cases, "truncated.last-byte", "a state without its last byte", Silence::fails,
            [](Bytes bytes) -> std::optional<Bytes> {
              if (bytes.size() < 2) return std::nullopt;
              bytes.pop_back();
              return bytes;
            });
  add_wrong(cases, "truncated.half", "half a state", Silence::fails, [](Bytes bytes) -> std::optional<Bytes> {
    if (bytes.size() < 2) return std::nullopt;
    bytes.resize(bytes.size() / 2);
    return bytes;
  });
  add_wrong(cases, "empty", "a state of no bytes", Silence::fails, [](Bytes bytes) -> std::optional<Bytes> {
    if (bytes.empty()) return std::nullopt;
    return Bytes{};
  });
  add_wrong(cases, "foreign", "noise of the length of a state", Silence::fails,
            [](Bytes bytes) -> std::optional<Bytes> {
              if (bytes.size() < 2) return std::nullopt;
              std::mt19937 noise(0x76666966);  // NOLINT: the same in every run, so that a failure repeats
              for (auto& byte : bytes)
                byte = static_cast<std::byte>(noise());
              return bytes;
            });
  add_wrong(cases, "extended", "a state with a page of zeros behind it", Silence::warns,
            [](Bytes bytes) -> std::optional<Bytes> {
              bytes.resize(bytes.size() + kPageSize);
              return bytes;
            });
  add_wrong(cases, "corrupted.start", "a state whose first byte is inverted", Silence::warns,
            [](Bytes bytes) { return inverted(std::move(bytes), 0); });
  add_wrong(cases, "corrupted.middle", "a state with an inverted byte in the middle", Silence::warns,
            [](Bytes bytes) { return inverted(std::move(bytes), 0.5); });
  add_wrong(cases, "corrupted.end", "a state whose last byte is inverted", Silence::warns,
            [](Bytes bytes) { return inverted(std::move(bytes), 1); });
}

}  // namespace

void add_load_checks(std::vector<Case>& cases) {
  add(cases, "load.whole", "the device takes the state that it gave, and works", clause::kLoad, whole);
  for (const auto size : kOddPieces) {
    add(cases, fmt::format("load.pieces.{}", size),
        fmt::format("a state that was read in pieces of {} bytes is taken in such pieces", size),
        clause::kCuts, [size](Bench& bench) { return in_pieces(bench, size); });
    cases.back().cuts = true;
  }
  add(cases, "load.pre-copy", "what pre-copy and stop-copy gave together is taken", clause::kSessionKept,
      from_pre_copy, kPreCopy);
  add(cases, "load.pre-copy.unread", "so is it if most of pre-copy was read after the stop",
      clause::kSessionKept, from_unread_pre_copy, kPreCopy);
  add(cases, "load.twice", "both of two states saved in a row are taken", clause::kLoad, both_of_two);
  add(cases, "load.undisturbed", "requests that change nothing lose nothing of a state that is being read",
      clause::kSame, undisturbed);
  add(cases, "load.round-trip", "a loaded device that has not run gives back what was loaded", clause::kLoad,
      round_trip);
  add(cases, "load.given-up", "a load that a reset gave up half-way does not harm the next", clause::kReset,
      after_a_refusal);
  cases.back().resets = true;
  add_wrong_states(cases);
}

}  // namespace handover::check
