#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "cli/interrupts.h"
#include "handover/base/unique_fd.h"
#include "handover/migration/status.h"

namespace handover::cli {

/// Waits for the end of migrations in this process, with a line about how they go and an ear for Ctrl-C.
class DeviceWatch {
 public:
  static Result<DeviceWatch> create(const Interrupts& interrupts);

  /// For the engines' on_status: a change is looked at at once.
  std::function<void(MigrationStatus)> observer() const;

  struct Wait {
    std::function<bool()> done;
    std::function<std::string()> line;  ///< how it goes; empty text: nothing to say
    /// What the first interrupt does; a refusal is shown.
    std::function<Status()> cancel;
  };
  /// True when done; false if it was interrupted a second time.
  bool until(const Wait& wait);

 private:
  DeviceWatch(const Interrupts& interrupts, UniqueFd changed);
  void show(const std::string& line);
  void say(const std::string& line);
  void clear();

  const Interrupts* interrupts_;
  UniqueFd changed_;
  bool terminal_;
  bool drawn_ = false;
  bool cancelled_ = false;
  std::chrono::steady_clock::time_point last_line_ = std::chrono::steady_clock::now();
};

}  // namespace handover::cli
