#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "handover/base/units.h"

namespace handover::solo {

/// Decides when a device that is read while it runs may be stopped.  Policy only: no I/O, no clock.
///
/// Either after a number of rounds, or when what is left takes no longer than the downtime limit at the rate
/// at which the device has given its state so far.  Small pieces say nothing about a rate, only about the
/// cost of asking, so only larger ones are measured; with nothing measured there is nothing to wait for
/// either.
class StopPolicy {
 public:
  /// The least piece that a rate is measured by.
  static constexpr std::uint64_t kTelling = 64 * KiB;
  /// Rounds after which a device that announces data and gives none is not believed any more.
  static constexpr std::uint32_t kPatience = 3;

  StopPolicy(std::optional<std::uint32_t> rounds, std::uint64_t downtime_limit_ms)
      : rounds_(rounds), limit_ms_(static_cast<double>(downtime_limit_ms)) {}

  /// The device gave so much in one piece.
  void given(std::uint64_t bytes, double seconds);
  void round_ended() { ++rounds_made_; }

  /// True if the device should go on running.  `left` is all that is to come, `can_precopy` the part of it
  /// that can come now.  With exact figures, it also says once after each halving of what is left that
  /// another round pays, unless a tenth of the limit is reached.
  bool hold(std::uint64_t left, std::uint64_t can_precopy, bool exact);
  /// How long so much would take; empty while there is no rate.
  std::optional<double> expected_ms(std::uint64_t bytes) const;

 private:
  std::optional<std::uint32_t> rounds_;
  double limit_ms_;
  std::uint32_t rounds_made_ = 0;
  std::uint64_t bytes_ = 0;
  double seconds_ = 0;
  double last_ms_ = std::numeric_limits<double>::infinity();
};

}  // namespace handover::solo
