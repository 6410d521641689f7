#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "handover/base/cancel.h"
#include "handover/stream/migratable.h"

namespace handover::vfio {

/// Packets that arrive by number in any order, and leave in turn.
///
/// Channels' threads put, one thread takes.  Bounded in bytes: who sends more than was granted is refused.
class PacketQueue {
 public:
  explicit PacketQueue(std::uint64_t max_bytes) : max_bytes_(max_bytes) {}

  struct Entry {
    bool config = false;  ///< the last one
    Packet packet;
  };

  /// Refuses numbers that came before or come after the last, and more bytes than may wait.
  Status put(Packet packet);
  /// Waits for the next in turn.  Empty once the queue is closed.  What was taken counts as waiting until
  /// done() is called with it.
  Result<std::optional<Entry>> take(const CancelToken& cancel);
  void done(const Packet& packet);
  /// Wakes the taker for good; what waits is dropped.
  void close();
  /// True if take() would not wait.
  bool ready() const;
  /// True if a packet ever came.
  bool used() const;
  /// The most bytes that ever waited.
  std::uint64_t peak() const;

 private:
  bool ready_locked() const;

  const std::uint64_t max_bytes_;
  mutable std::mutex mutex_;  // a leaf
  std::condition_variable_any changed_;
  std::map<std::uint32_t, Entry> waiting_;
  std::uint32_t next_ = 0;
  std::optional<std::uint32_t> last_;
  std::uint64_t bytes_ = 0;
  std::uint64_t peak_ = 0;
  bool used_ = false;
  bool closed_ = false;
};

}  // namespace handover::vfio
