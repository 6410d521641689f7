#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "handover/memory/ram_migration.h"
#include "handover/migration/status.h"

namespace handover {

/// What one item sent, by phase.
struct ItemStatistics {
  std::string name{};     ///< Migratable::display_name
  std::string section{};  ///< name on the wire
  std::uint64_t setup_bytes = 0;
  std::uint64_t precopy_bytes = 0;   ///< while the machine ran
  std::uint64_t downtime_bytes = 0;  ///< while it stood still
  std::uint64_t pending_bytes = 0;   ///< last known
  bool size_unknown = false;      ///< it cannot tell what it will send stopped; the estimate leaves that out
  double send_rate = 0;           ///< bytes a second, as last measured; 0: not yet
  double load_rate = 0;           ///< the same of the destination's loading, as it reports
  std::uint64_t acks_wanted = 0;  ///< switchover acknowledgements asked for
  std::uint64_t normal_pages = 0;
  std::uint64_t zero_pages = 0;
  std::uint64_t total() const { return setup_bytes + precopy_bytes + downtime_bytes; }
};

/// Where the downtime went, in milliseconds on the source's clock.  The sum is Statistics::downtime_ms.
struct DowntimeParts {
  double stop = 0;          ///< vCPUs and devices brought to a stop
  double final_ram = 0;     ///< last dirty sync and the pages it found
  double device_state = 0;  ///< the rest of every device, configurations and vCPU registers
  double load = 0;          ///< until the destination said that everything is loaded
  double commit = 0;        ///< giving up and sending the mark
  double start = 0;         ///< until the destination said that it runs
};

/// A snapshot of a migration's figures.  Times in milliseconds, rates in bytes a second.
struct Statistics {
  MigrationStatus status = MigrationStatus::none;
  std::string error;
  std::uint64_t total_ms = 0;
  std::uint64_t setup_ms = 0;
  double downtime_ms = 0;  ///< of a finished switchover
  DowntimeParts downtime_parts;
  double expected_downtime_ms = 0;   ///< while active
  double predicted_downtime_ms = 0;  ///< what was expected when the switchover was decided
  std::uint64_t transferred = 0;     ///< all bytes on all channels
  std::uint64_t multifd_bytes = 0;   ///< of these, on multifd channels
  std::uint64_t multifd_channels = 0;
  std::uint64_t switchover_acks = 0;  ///< received
  std::uint64_t remaining = 0;        ///< bytes pending over all items
  std::uint64_t total_bytes = 0;      ///< RAM size
  double throughput = 0;              ///< measured over the last 100 ms or more
  std::uint64_t dirty_sync_count = 0;
  std::uint64_t dirty_pages_rate = 0;  ///< pages a second
  std::vector<ItemStatistics> items;
  std::vector<RamRound> rounds;
  std::vector<DirtyTracking> dirty_tracking;  ///< of the devices; empty if the machine stood still
};

}  // namespace handover
