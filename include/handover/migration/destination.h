#pragma once

#include <functional>
#include <memory>
#include <string>

#include "handover/channel/channel.h"
#include "handover/machine/machine.h"
#include "handover/migration/parameters.h"
#include "handover/migration/status.h"

namespace handover {

/// One incoming migration: loads a stream into a machine in run state inmigrate and starts it when the
/// source has committed.
///
/// start() makes a load thread, and more for multifd channels and devices whose state comes in packets; how
/// many there are is the source's choice.  The rest may be called from any thread.  The machine runs only
/// after the end-of-file mark has been read (so after the source gave it up); a stream that breaks off
/// before, or does not fit, ends in status failed with the machine still in inmigrate.
class Destination {
 public:
  struct Options {
    Capabilities capabilities{};
    Parameters parameters{};
    std::function<void(MigrationStatus)> on_status;
    /// Leave the machine paused at the end even if the source ran (`-S`).
    bool start_paused = false;
    /// How the log calls it when it fails.
    std::string what = "the incoming migration";
  };

  Destination(Machine& machine, Options options);
  ~Destination();
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  void start(std::unique_ptr<Listener> listener);
  void start(std::unique_ptr<Channel> channel);

  MigrationStatus status() const;
  std::string error() const;
  /// Gives up; refused with a reason once the mark has been read.
  Status cancel();
  MigrationStatus wait();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover
