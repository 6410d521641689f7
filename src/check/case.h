#pragma once

#include <functional>
#include <string>
#include <vector>

#include "check/bench.h"
#include "handover/check/check.h"

namespace handover::check {

/// One check: what it says, what it needs, and how it is made.
struct Case {
  Description about;
  /// Migration features without which there is nothing to check.
  std::uint64_t features = vfio::kMigrationStopCopy;
  bool loads = false;   ///< needs state that was saved from the device
  bool resets = false;  ///< needs a reset, be it only as the way out of what it does
  bool logs = false;    ///< needs a DMA log
  bool cuts = false;    ///< needs a stream that may be cut anywhere

  /// The device is RUNNING when it is called, and is brought back there afterwards.  An error is a failure.
  std::function<Result<Finding>(Bench&)> body;
};

/// Each adds the checks of its groups.
void add_feature_checks(std::vector<Case>& cases);
void add_transition_checks(std::vector<Case>& cases);
void add_stream_checks(std::vector<Case>& cases);
void add_size_checks(std::vector<Case>& cases);
void add_load_checks(std::vector<Case>& cases);
void add_reset_checks(std::vector<Case>& cases);
void add_log_checks(std::vector<Case>& cases);

/// All of them, in the order in which they run.
std::vector<Case> all_cases();

inline Finding passed(std::string note = {}) {
  return {Verdict::passed, std::move(note)};
}
inline Finding warned(std::string why) {
  return {Verdict::warned, std::move(why)};
}
inline Finding not_offered(std::string why) {
  return {Verdict::not_offered, std::move(why)};
}
inline Finding not_run(std::string why) {
  return {Verdict::not_run, std::move(why)};
}

/// Every state that a device can be asked for, in the order of their numbers.
std::vector<vfio::DeviceState> all_states();
/// The migration features that a device with the state has at the least.
std::uint64_t features_for(vfio::DeviceState state);
/// A case whose device visits the state: loading is exclusive, and needs something to load.
Case case_in(vfio::DeviceState state);

}  // namespace handover::check
