#pragma once

#include <atomic>
#include <cstdint>
#include <shared_mutex>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/vfio_user/protocol_migration.h"
#include "vfio_user/dma/iova_log.h"

namespace handover::vfio_user {

/// What a log can be asked for at most; 0: no limit.
struct LogLimits {
  std::size_t ranges = 0;
  std::uint64_t bytes = 0;
  explicit operator bool() const { return ranges > 0 || bytes > 0; }
};

/// What a served device wrote by DMA between the start and the stop of its log.
///
/// Without limits everything is logged whatever ranges are named: that covers mappings which come later. With
/// them it is as with hardware, which has few ranges of limited size: what is too much is refused, and only
/// writes inside the ranges are logged.  A start while the log is on replaces the ranges, and keeps the marks
/// of pages that the new ones touch.
///
/// The server's loop starts, stops and takes; any thread says what was written, after it wrote.  Without
/// limits that costs no lock beside the log's own.
class WriteLog {
 public:
  explicit WriteLog(const LogLimits& limits) : limits_(limits) {}

  /// No ranges: everything.  The errno is E2BIG for too many ranges, EOPNOTSUPP for too many bytes, EINVAL
  /// for ranges that are empty, wrap, or (with limits) overlap; then all stays as it was.
  Status start(std::span<const protocol::LoggedRange> ranges);
  void stop();
  bool on() const { return on_; }

  void written(std::uint64_t start, std::uint64_t size);

  /// As the log's.
  void take(std::uint64_t start, std::uint64_t size, std::uint64_t page_size, std::span<std::byte> bitmap) {
    log_.take(start, size, page_size, bitmap);
  }
  bool touched(std::uint64_t start, std::uint64_t size) const { return log_.touched(start, size); }

 private:
  struct Part {
    std::uint64_t first = 0;
    std::uint64_t last = 0;
  };
  Status check(std::span<const Part> sorted) const;
  void forget_all_but(std::span<const Part> sorted);

  const LogLimits limits_;
  IovaLog log_;
  std::atomic<bool> on_{false};
  // Above the log's.  With limits only: exclusive to change the ranges, shared to mark by them, so that no
  // mark by old ranges comes after a start has returned.
  std::shared_mutex mutex_;
  std::vector<Part> parts_;  // ascending and apart
};

}  // namespace handover::vfio_user
