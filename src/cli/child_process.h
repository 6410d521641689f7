#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::cli {

/// A process that this one has started and will not leave behind: the destructor ends it.
///
/// Its standard output is read here, its standard error goes to a file or to ours.
class ChildProcess {
 public:
  struct Options {
    std::string name;         ///< for messages
    std::string stderr_path;  ///< empty: our own standard error
  };

  /// `arguments[0]` is the program; it is looked up like a shell does.
  static Result<ChildProcess> start(const std::vector<std::string>& arguments, Options options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  /// The next line of its standard output; fails if it ends before, with what it wrote to standard error.
  Result<std::string> read_line(const CancelToken& cancel, Deadline deadline);
  void signal(int number);
  /// True while it has not been reaped and still runs.
  bool alive();
  /// Waits for its end; the exit code, or 128 + signal.
  Result<int> wait(const CancelToken& cancel, Deadline deadline);
  /// SIGTERM, and SIGKILL if that does not end it within `patience`.  Returns what wait() would.
  int terminate(std::chrono::milliseconds patience = std::chrono::seconds(10));

 private:
  ChildProcess() = default;
  /// What it has written to its error file so far, for messages.
  std::string complaint() const;

  Options options_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd stdout_;
  std::string pending_;
  int status_ = 0;
};

}  // namespace handover::cli
