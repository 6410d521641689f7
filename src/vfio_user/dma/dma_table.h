#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <vector>

#include "handover/base/mapping.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/base/units.h"
#include "handover/vfio_user/protocol_dma.h"
#include "vfio_user/dma/write_log.h"

namespace handover::vfio_user {

/// The guest memory that a client has mapped for a device.
///
/// The server's loop adds and removes; any thread of the device model copies.  A copy holds the table's
/// lock shared, so once remove() has returned nobody touches that range any more.
class DmaTable {
 public:
  DmaTable(WriteLog& log, std::size_t max_ranges) : log_(log), max_ranges_(max_ranges) {}

  struct Range {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
  };

  /// Does all of DMA_MAP's checks.  The errno is EEXIST for an overlap with anything but an identical range.
  Status map(const protocol::DmaMap& request, UniqueFd fd);
  /// The ranges that lie completely in [start, last]; Errc::invalid_argument if one would be cut.
  Result<std::vector<Range>> inside(std::uint64_t start, std::uint64_t last) const;
  bool any_in(std::uint64_t start, std::uint64_t last) const;
  std::vector<Range> all() const;
  void remove(std::span<const Range> ranges);
  void clear();

  /// Any thread.  Fails unless every byte is mapped with the permission (protocol::kDmaMapRead or Write).
  Status check(Iova start, std::uint64_t size, std::uint32_t permission) const;

  struct Step {
    std::size_t bytes = 0;    ///< of the front of the range
    bool by_message = false;  ///< nothing was copied: these bytes can only be reached by messages
  };
  /// Any thread.  Copies the front of the range if it is mapped here, at most kCopyStep bytes; the log is
  /// told of a write after it was made.
  Result<Step> read_some(Iova from, std::span<std::byte> to) const;
  Result<Step> write_some(Iova to, std::span<const std::byte> from);

 private:
  static constexpr std::size_t kCopyStep = 1 * MiB;
  struct Entry {
    std::uint64_t size = 0;
    std::uint32_t flags = 0;
    bool has_file = false;
    dev_t device = 0;
    ino_t inode = 0;
    std::uint64_t offset = 0;
    Mapping mapping;        // empty: by message, or not at all
    std::size_t delta = 0;  // of the range's first byte in the mapping
    bool guarded = true;
  };
  using Entries = std::map<std::uint64_t, Entry>;

  Status attach_file(Entry& entry, const UniqueFd& fd) const;
  Entries::const_iterator at_or_before(std::uint64_t address) const;
  struct Place {
    const Entry* entry;
    std::byte* at;
    std::size_t bytes;
  };
  Result<Place> place(Iova start, std::size_t size, std::uint32_t permission) const;
  std::shared_lock<std::shared_mutex> lock_shared() const;
  std::unique_lock<std::shared_mutex> lock_exclusive() const;

  WriteLog& log_;
  const std::size_t max_ranges_;
  // Leaves.  `mutex_` protects entries_ and, held shared, that no mapping goes while it is copied; a
  // writer waits behind `turnstile_`, so that a stream of readers cannot keep it out.
  mutable std::mutex turnstile_;
  mutable std::shared_mutex mutex_;
  Entries entries_;
};

}  // namespace handover::vfio_user
