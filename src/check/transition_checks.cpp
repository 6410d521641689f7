// The walk over the states: every pair of them is a check, made from vfio_abi's table.

#include "check/case.h"
#include "check/clauses.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::to_string;

namespace {

constexpr std::uint64_t kAllFeatures =
    vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;

// Numbers that no state has.
constexpr std::uint32_t kNoStates[] = {vfio::kDeviceStateCount, vfio::kDeviceStateCount + 1, 255, 0x80000002,
                                       0xffffffff};

// In RESUMING what was written has to make a whole for any way out.
Status leave(Bench& bench, DeviceState state) {
  if (vfio::is_saving(state))
    HANDOVER_TRY_CONTEXT(bench.read_some(), "the data session in {} does not answer", to_string(state));
  if (state == DeviceState::resuming) return bench.finish_load();
  return {};
}

Case arc(DeviceState from, DeviceState to) {
  Case made = case_in(from);
  const Case end = case_in(to);
  made.features |= end.features;
  made.loads = made.loads || end.loads;
  made.about = {fmt::format("arc.{}.{}", to_string(from), to_string(to)),
                fmt::format("{} to {} in one request", to_string(from), to_string(to)), clause::kArc,
                made.loads};
  made.body = [from, to](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(from));
    if (from == DeviceState::resuming) HANDOVER_TRY(bench.write(bench.sample()));
    HANDOVER_TRY(bench.ask(to));
    HANDOVER_TRY(leave(bench, to));
    return passed();
  };
  return made;
}

Case same(DeviceState state) {
  Case made = case_in(state);
  made.about = {fmt::format("same.{}", to_string(state)),
                fmt::format("{} asked for in {} changes nothing", to_string(state), to_string(state)),
                clause::kSame, made.loads};
  made.body = [state](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(state));
    HANDOVER_TRY(bench.ask(state));
    HANDOVER_TRY(leave(bench, state));
    return passed();
  };
  return made;
}

// A request that the table has no path for.
Case forbidden(DeviceState from, DeviceState to) {
  Case made = case_in(from);
  made.features |= features_for(to);
  made.about = {fmt::format("illegal.{}.{}", to_string(from), to_string(to)),
                fmt::format("{} to {} is refused", to_string(from), to_string(to)), clause::kIllegal,
                made.loads};
  made.body = [from, to](Bench& bench) -> Result<Finding> {
    if (!bench.options().ask_hanging_arcs)
      return not_run("not asked: kernels up to 6.12.95 at least never return from this request");
    HANDOVER_TRY(bench.enter(from));
    HANDOVER_TRY(bench.refuses(static_cast<std::uint32_t>(to)));
    HANDOVER_TRY(leave(bench, from));
    return passed();
  };
  return made;
}

Case error_state(DeviceState from) {
  Case made = case_in(from);
  made.about = {fmt::format("illegal.{}.error", to_string(from)),
                fmt::format("the error state asked for in {} is refused", to_string(from)), clause::kIllegal,
                made.loads};
  made.body = [from](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(from));
    HANDOVER_TRY(bench.refuses(static_cast<std::uint32_t>(DeviceState::error)));
    HANDOVER_TRY(leave(bench, from));
    return passed();
  };
  return made;
}

Case lacking(DeviceState from) {
  Case made = case_in(from);
  made.about = {fmt::format("illegal.{}.lacking", to_string(from)),
                fmt::format("states that the device lacks are refused in {}", to_string(from)),
                clause::kIllegal, made.loads};
  made.body = [from](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(from));
    bool any = false;
    for (const auto to : all_states()) {
      if (bench.has(to)) continue;
      any = true;
      HANDOVER_TRY(bench.refuses(static_cast<std::uint32_t>(to)));
    }
    HANDOVER_TRY(leave(bench, from));
    return any ? passed() : not_offered("the device has every state");
  };
  return made;
}

Case no_state(DeviceState from) {
  Case made = case_in(from);
  made.about = {fmt::format("illegal.{}.number", to_string(from)),
                fmt::format("numbers that are no state (8, 9, 255 ...) are refused in {}", to_string(from)),
                clause::kIllegal, made.loads};
  made.body = [from](Bench& bench) -> Result<Finding> {
    HANDOVER_TRY(bench.enter(from));
    for (const auto number : kNoStates)
      HANDOVER_TRY(bench.refuses(number));
    HANDOVER_TRY(leave(bench, from));
    return passed();
  };
  return made;
}

}  // namespace

void add_transition_checks(std::vector<Case>& cases) {
  std::vector<Case> illegal;
  // A pair that a device with everything has no path for is one that no device has.
  for (const auto from : all_states())
    for (const auto to : all_states())
      if (from != to && vfio::path_between(from, to, kAllFeatures))
        cases.push_back(arc(from, to));
      else if (from != to)
        illegal.push_back(forbidden(from, to));
  for (const auto state : all_states())
    cases.push_back(same(state));
  for (const auto from : all_states()) {
    cases.push_back(error_state(from));
    // Who has the state lacks none.
    if (features_for(from) != kAllFeatures) cases.push_back(lacking(from));
    cases.push_back(no_state(from));
  }
  std::ranges::move(illegal, std::back_inserter(cases));
}

}  // namespace handover::check
