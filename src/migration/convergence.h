#pragma once

#include <chrono>
#include <cstdint>

#include "handover/migration/parameters.h"
#include "handover/stream/migratable.h"

namespace handover {

/// Decides when what is left fits into the allowed downtime.  Policy only: no I/O, no clock of its own.
class Convergence {
 public:
  using Seconds = std::chrono::duration<double>;
  /// Bandwidth is measured anew whenever this much sending time has passed.
  static constexpr Seconds kWindow{0.1};

  /// `bytes` went out in `busy` time; waiting for the rate limit does not count, because at the switchover
  /// there is no limit.
  void sent(std::uint64_t bytes, Seconds busy);

  /// Everything that could go out has gone: with no figure yet, what was measured so far has to do, or a small
  /// machine would wait for a figure with nothing left to measure by.
  void settle();

  /// Bytes a second; 0 until enough was sent to tell.
  double bandwidth() const { return bandwidth_; }
  /// What the switchover is expected to move a second: avail-switchover-bandwidth, else what was measured.
  double switchover_bandwidth(const Parameters& parameters) const;
  /// 0 if nothing is left; negative while there is no bandwidth to tell by.
  double expected_downtime_ms(const Pending& pending, const Parameters& parameters) const;
  /// True if the machine may stop now.  With no bandwidth known only "nothing left" fits.
  bool fits(const Pending& pending, const Parameters& parameters) const;

 private:
  std::uint64_t window_bytes_ = 0;
  Seconds window_busy_{0};
  double bandwidth_ = 0;
};

}  // namespace handover
