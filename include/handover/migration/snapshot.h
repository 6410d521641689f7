#pragma once

#include <string>

namespace handover {

/// Saving a machine into a file without giving it up.
///
/// The machine stands still (run state save-vm) until the file is whole and durable, then goes on as before.
/// The file appears under its name only then, in place of one that was there; while it is written it is
/// called PATH.partial, and a failure or a cancel leaves neither name behind.  It loads like any migration
/// stream.
struct SnapshotPlan {
  std::string path;
  /// Do not let a machine that ran go on: it is paused afterwards.
  bool stay_stopped = false;
};

}  // namespace handover
