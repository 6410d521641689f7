#pragma once

#include <functional>
#include <string>
#include <vector>

#include "unit/check/checked_device.h"

namespace handover::check {

/// A wrong device, and the check that must see it.
struct Defect {
  std::string id;
  std::string what;
  std::function<void(CheckedDevice&)> install;
  std::uint64_t features = 7;
  bool kernel_log_rules = false;
  /// Beginnings of the ids of other checks that cannot but see it, too.
  std::vector<std::string> also = {};
  /// So broad that only the check itself is run.
  bool broad = false;
  /// Run the checks of its group only: there are many of the kind.
  bool own_group = false;
};

/// A defect of every check that is made from the table of states, by its id.
std::vector<Defect> defects_of_states();
std::vector<Defect> defects_of_streams();
std::vector<Defect> defects_of_loads();
std::vector<Defect> defects_of_logs();

}  // namespace handover::check
