#pragma once

#include <memory>
#include <string>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/channel/address.h"

namespace handover {

/// A file that appears under its name only when it is whole: until publish() it is called PATH.partial, and
/// without it the destructor removes it.  A second writer of the same name is refused; what a writer left
/// behind that was killed is taken over.
class SnapshotFile {
 public:
  static Result<std::unique_ptr<SnapshotFile>> create(std::string path);
  ~SnapshotFile();
  SnapshotFile(const SnapshotFile&) = delete;
  SnapshotFile& operator=(const SnapshotFile&) = delete;

  /// Where to write until then.
  Address partial() const;
  /// Takes its name, in place of what had it before, and makes the name durable.  The content must be.
  Status publish();

 private:
  SnapshotFile(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  static Result<UniqueFd> lock_partial(const std::string& name);

  std::string path_;
  UniqueFd lock_;
  bool published_ = false;
};

}  // namespace handover
