#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover {

/// A regular file under a channel, for what has a place of its own in it (the pages of a mapped-ram file)
/// beside the stream, which goes through the channel in order.
///
/// Positions count from the file's first byte, wherever the stream begins.  The channel owns the object.  Any
/// thread may read, write and drop by position at any time; what belongs to the stream's order (tell, seek)
/// belongs to the channel's thread.  After the channel's shutdown() every call fails with Errc::cancelled.
class PositionedFile {
 public:
  /// `start`: where in the file the stream begins.
  PositionedFile(UniqueFd fd, std::string name, std::uint64_t start);

  /// For messages; as the channel's.
  const std::string& name() const { return name_; }
  std::uint64_t start() const { return start_; }
  Result<std::uint64_t> size() const;

  /// Fills all of `to`; the end before that is Errc::closed and says how much is missing.
  Status read_at(std::uint64_t position, std::span<std::byte> to);
  Status write_at(std::uint64_t position, std::span<const std::byte> from);
  /// Gives the space of a range back, which then reads as zeros; nothing happens where the file system
  /// cannot.
  void drop(std::uint64_t position, std::uint64_t count);

  /// From now on pages go past the page cache (O_DIRECT) where position, address and size are aligned. False:
  /// the file system cannot, and nothing changes.  If it refuses later all the same, reading and writing go
  /// on through the cache and a line in the log says so.
  bool go_direct();

  /// Where the stream's next byte is.
  Result<std::uint64_t> tell() const;
  Status seek(std::uint64_t position);

 private:
  friend class FileChannel;
  template <class Call>
  Status transfer(std::string_view doing, std::uint64_t position, std::size_t size, bool aligned, Call call);
  int choose(bool aligned) const;
  void leave_direct();

  UniqueFd fd_;
  UniqueFd direct_;
  std::atomic<bool> use_direct_{false};
  std::string name_;
  std::uint64_t start_;
  CancelSource shut_;
};

}  // namespace handover
