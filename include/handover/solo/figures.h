#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace handover::solo {

/// One round of pre-copy: the device was asked what it has, and read until it had no more, or had given as
/// much as it had announced.
struct PrecopyRound {
  std::uint64_t initial_bytes = 0;  ///< as the device said when the round began
  std::uint64_t dirty_bytes = 0;
  std::uint64_t bytes = 0;  ///< read
  double seconds = 0;       ///< reading and passing on; waits for a rate limit not counted
  bool ran_dry = false;     ///< it ended because the device had no more
};

/// What a device gave or took.
struct DeviceFigures {
  /// The first kRoundsKept rounds; `round_count` says how many there were.
  static constexpr std::size_t kRoundsKept = 100;
  std::vector<PrecopyRound> rounds;
  std::uint64_t round_count = 0;
  std::uint64_t precopy_bytes = 0;
  double precopy_seconds = 0;

  /// What it said before it was stopped for the last time; empty: it could not say.
  std::optional<std::uint64_t> stop_told_bytes;
  /// How long that takes at the rate of the pre-copy; empty: nothing large enough came to tell by.
  std::optional<double> stop_expected_ms;
  std::uint64_t stop_bytes = 0;  ///< read in STOP_COPY
  double stop_seconds = 0;

  std::uint64_t loaded_bytes = 0;
  double load_seconds = 0;  ///< that the device took to take them
};

}  // namespace handover::solo
