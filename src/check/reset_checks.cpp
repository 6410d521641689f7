// A reset is the way out of everything.

#include "check/case.h"
#include "check/clauses.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::to_string;

namespace {

Result<Finding> reset_in(Bench& bench, DeviceState state) {
  HANDOVER_TRY(bench.enter(state));
  const bool saving = vfio::is_saving(state);
  if (saving) HANDOVER_TRY(bench.read_some());
  HANDOVER_TRY(bench.reset());
  HANDOVER_TRY_CONTEXT(bench.expect(DeviceState::running), "after a reset in {}", to_string(state));
  if (saving)
    HANDOVER_TRY(bench.refused(bench.read_some(), "reading in a data session that a reset has ended"));
  if (state == DeviceState::resuming)
    HANDOVER_TRY_CONTEXT(bench.refuses_writing(), "the data session should have ended with the reset");
  HANDOVER_TRY(bench.works());
  return passed();
}

}  // namespace

void add_reset_checks(std::vector<Case>& cases) {
  for (const auto state : all_states()) {
    Case made;
    made.features = features_for(state);
    made.resets = true;
    made.about = {
        fmt::format("reset.{}", to_string(state)),
        fmt::format("a reset in {} gives a running device and ends its data session", to_string(state)),
        clause::kReset, true};
    made.body = [state](Bench& bench) { return reset_in(bench, state); };
    cases.push_back(std::move(made));
  }
}

}  // namespace handover::check
