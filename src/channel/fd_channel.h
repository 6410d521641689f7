#pragma once

#include <string>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/unique_fd.h"
#include "handover/channel/channel.h"

namespace handover {

/// What is left to write of a list of buffers, after short writes.
class RemainingBuffers {
 public:
  explicit RemainingBuffers(std::span<const iovec> buffers);
  bool empty() const { return first_ == parts_.size(); }
  /// The next pieces, as many as one system call takes.
  std::span<iovec> next();
  void advance(std::size_t count);

 private:
  std::vector<iovec> parts_;
  std::size_t first_ = 0;
};

/// A stream socket or a pipe, non-blocking; waits in poll() together with the event that shutdown() raises.
class FdChannel final : public Channel {
 public:
  enum class Kind { socket, pipe };

  FdChannel(UniqueFd fd, Kind kind, std::string name);

  using Channel::read_some;
  using Channel::write_all;
  Result<std::size_t> read_some(std::span<const iovec> buffers) override;
  Status write_all(std::span<const iovec> buffers) override;
  void shutdown() override;
  void finish_writing() override;
  void stop_reading() override;
  bool two_way() const override { return kind_ == Kind::socket; }
  const std::string& name() const override { return name_; }

  /// Closes a pipe, so that the other end sees the end.  Only the thread that reads or writes may call it.
  void close_pipe() { fd_.reset(); }
  /// Cancelled by shutdown().
  CancelToken token() const { return shut_.token(); }

 private:
  ssize_t write_once(std::span<iovec> parts);

  UniqueFd fd_;
  Kind kind_;
  std::string name_;
  CancelSource shut_;
};

}  // namespace handover
