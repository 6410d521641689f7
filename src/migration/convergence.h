#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "handover/base/units.h"
#include "handover/migration/parameters.h"
#include "handover/stream/migratable.h"

namespace handover {

/// Decides when what is left fits into the allowed downtime.  Policy only: no I/O, no clock of its own.
///
/// Items move at rates of their own: RAM as fast as the network, a device as fast as it hands out its state
/// and as its twin takes it in.  So each is measured alone, on both sides; sending and loading overlap, and
/// the slower of the two counts.  Items that go one after the other add up; those that go side by side
/// (devices with parallel state) take as long as the slowest of them, and never less than the link needs for
/// all.
///
/// A device that cannot tell its size counts with what it can tell: it does not hold the switchover up, and
/// the downtime may be longer than was expected.
class Convergence {
 public:
  using Seconds = std::chrono::duration<double>;
  /// A rate is measured anew whenever an item has been sending for this long.
  static constexpr Seconds kWindow{0.1};
  /// So few bytes say nothing about a rate: they took what any call takes.
  static constexpr std::uint64_t kTooFew = 64 * KiB;

  /// `bytes` of an item went out in `busy` time; waiting for the rate limit does not count, because at the
  /// switchover there is no limit.
  void sent(std::size_t item, std::uint64_t bytes, Seconds busy);
  /// The destination has loaded so much of an item in so much time, all told.
  void loaded(std::size_t item, std::uint64_t bytes, Seconds busy);
  /// The item goes side by side with the others of its kind.
  void set_parallel(std::size_t item) { slot(item).parallel = true; }
  /// Everything that could go out has gone: what was measured so far has to do, and where nothing can be
  /// measured what is left counts for nothing, or a small machine would wait for figures for ever.
  void settle();

  /// Bytes a second over all items; 0 until enough was sent to tell.
  double bandwidth() const { return all_.rate; }
  /// Bytes a second of one item; 0 until known.
  double send_rate(std::size_t item) const { return item < items_.size() ? items_[item].sending.rate : 0; }
  double load_rate(std::size_t item) const { return item < items_.size() ? items_[item].load_rate : 0; }
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
  struct Item {
    Meter sending;
    double load_rate = 0;
    bool parallel = false;
  };
  Item& slot(std::size_t item);
  double rate_of(std::size_t item, const Parameters& parameters) const;

  Meter all_;
  bool settled_ = false;
  std::vector<Item> items_;
  double last_pass_ms_ = std::numeric_limits<double>::infinity();
};

}  // namespace handover
