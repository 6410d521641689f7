#include <algorithm>

#include "check/case.h"
#include "check/clauses.h"

namespace handover::check {

using vfio::DeviceState;

std::vector<DeviceState> all_states() {
  std::vector<DeviceState> states;
  for (std::uint32_t number = 0; number < vfio::kDeviceStateCount; ++number)
    if (const auto state = *vfio::device_state_from(number); state != DeviceState::error)
      states.push_back(state);
  return states;
}

std::uint64_t features_for(DeviceState state) {
  using namespace vfio;
  for (const auto features :
       {kMigrationStopCopy, kMigrationStopCopy | kMigrationP2p, kMigrationStopCopy | kMigrationPreCopy})
    if (state_exists(state, features)) return features;
  return kMigrationStopCopy | kMigrationP2p | kMigrationPreCopy;
}

Case case_in(DeviceState state) {
  Case made;
  made.features = features_for(state);
  made.loads = made.about.exclusive = state == DeviceState::resuming;
  return made;
}

void add_feature_checks(std::vector<Case>& cases) {
  Case features;
  features.about = {"features.combination", "the migration features are a combination that exists",
                    clause::kFeatures};
  features.features = 0;
  features.body = [](Bench& bench) -> Result<Finding> {
    using namespace vfio;
    const auto bits = bench.features();
    if (!(bits & kMigrationStopCopy) || bits & ~(kMigrationStopCopy | kMigrationP2p | kMigrationPreCopy))
      return fail(Errc::protocol, "the features are {:#x}; 0x1, 0x3, 0x5 and 0x7 exist", bits);
    return passed();
  };
  cases.push_back(std::move(features));
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_feature_checks(cases);
  add_transition_checks(cases);
  add_stream_checks(cases);
  add_size_checks(cases);
  add_log_checks(cases);
  add_load_checks(cases);
  add_reset_checks(cases);
  return cases;
}

std::vector<Description> catalogue() {
  std::vector<Description> all;
  for (auto& each : all_cases())
    all.push_back(std::move(each.about));
  return all;
}

}  // namespace handover::check
