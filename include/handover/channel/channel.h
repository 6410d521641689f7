#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/channel/address.h"

namespace handover {

class PositionedFile;

/// A byte pipe to somewhere.
///
/// One thread may read while another writes; shutdown() may come from any thread and wakes both.
/// After shutdown() every call fails with Errc::cancelled.
class Channel {
 public:
  virtual ~Channel() = default;

  /// Fills the buffers front to back with what is there, waiting for at least one byte.  0 means the end.
  virtual Result<std::size_t> read_some(std::span<const iovec> buffers) = 0;
  /// Writes all of it, waiting as long as it takes.  Does not keep the buffers.
  virtual Status write_all(std::span<const iovec> buffers) = 0;
  /// Wakes every waiting call and ends the connection.
  virtual void shutdown() = 0;
  /// Moves past up to `count` bytes without reading them, where that is possible (files); 0 where it is not.
  virtual Result<std::uint64_t> skip_some(std::uint64_t count) {
    (void)count;
    return 0;
  }
  /// Says that nothing more will be written, while reading goes on (sockets; else does nothing).
  virtual void finish_writing() {}
  /// Wakes whoever reads, who then finds the end; writing goes on where that is possible (sockets).
  virtual void stop_reading() { shutdown(); }
  /// True if the other end can answer on this channel.
  virtual bool two_way() const = 0;
  /// Makes what was written durable and reports late failures: fsync of a file, exit status of a command.
  virtual Status commit() { return {}; }
  /// After shutdown(): what was written is not to be taken for a whole stream.  A file is cut off where the
  /// stream began; elsewhere the peer has noticed already.
  virtual void discard() {}
  /// The regular file that this is, for what is written and read by position; null if it is none.
  virtual PositionedFile* file() { return nullptr; }
  /// For messages, such as `tcp:127.0.0.1:4444`.
  virtual const std::string& name() const = 0;

  Result<std::size_t> read_some(std::span<std::byte> buffer) {
    const iovec one{buffer.data(), buffer.size()};
    return read_some(std::span(&one, 1));
  }
  /// Fills the whole buffer; the end before that is Errc::closed.
  Status read_exact(std::span<std::byte> buffer);
  Status write_all(std::span<const std::byte> bytes) {
    const iovec one{const_cast<std::byte*>(bytes.data()), bytes.size()};
    return write_all(std::span(&one, 1));
  }
};

/// Opens the sending side of an address: connects, creates the file (truncated at the offset), or starts the
/// command with its standard input as the channel.
Result<std::unique_ptr<Channel>> connect_channel(const Address& address, const CancelToken& cancel);

/// A socket or pipe that is open already.  Takes ownership of the descriptor.
Result<std::unique_ptr<Channel>> adopt_channel(UniqueFd fd, std::string name);

/// The receiving side of an address.
class Listener {
 public:
  virtual ~Listener() = default;
  /// Waits for the peer.  For fd, file and exec there is one channel, ready at once.
  virtual Result<std::unique_ptr<Channel>> accept(const CancelToken& cancel, Deadline deadline = {}) = 0;
  /// Where it really listens: the port that was picked, for `tcp:HOST:0`.
  virtual const Address& address() const = 0;
};

Result<std::unique_ptr<Listener>> listen_on(const Address& address);

}  // namespace handover
