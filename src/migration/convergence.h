#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "handover/migration/parameters.h"
#include "handover/stream/migratable.h"

namespace handover {

/// Decides when what is left fits into the allowed downtime.  Policy only: no I/O, no clock of its own.
///
/// Items move at rates of their own: RAM as fast as the network, a device as fast as it hands out its state.
/// So each is measured alone, and the expected downtime is the sum of what each one's rest will take.
class Convergence {
 public:
  using Seconds = std::chrono::duration<double>;
  /// A rate is measured anew whenever an item has been sending for this long.
  static constexpr Seconds kWindow{0.1};

  /// `bytes` of an item went out in `busy` time; waiting for the rate limit does not count, because at the
  /// switchover there is no limit.
  void sent(std::size_t item, std::uint64_t bytes, Seconds busy);
  /// Everything that could go out has gone: with no figure yet, what was measured so far has to do, or a
  /// small machine would wait for a figure with nothing left to measure by.
  void settle();

  /// Bytes a second over all items; 0 until enough was sent to tell.
  double bandwidth() const { return all_.rate; }
  /// 0 if nothing is left; negative while there is no rate to tell by.  `pending` is indexed like sent().
  double expected_downtime_ms(std::span<const Pending> pending, const Parameters& parameters) const;
  /// True if the machine may stop now.  With no rate known only "nothing left" fits.
  bool fits(std::span<const Pending> pending, const Parameters& parameters) const;
  /// Asked once after each pass with exact figures that fit: true if the passes still halve what is left, so
  /// that one more buys a much shorter downtime for little time.  A tenth of the limit is short enough.
  bool worth_another_pass(std::span<const Pending> pending, const Parameters& parameters);

 private:
  struct Meter {
    std::uint64_t bytes = 0;  // in this window
    Seconds busy{0};
    double rate = 0;

    void add(std::uint64_t more, Seconds took);
    void settle();
  };
  double rate_of(std::size_t item, const Parameters& parameters) const;

  Meter all_;
  std::vector<Meter> items_;
  double last_pass_ms_ = std::numeric_limits<double>::infinity();
};

}  // namespace handover
