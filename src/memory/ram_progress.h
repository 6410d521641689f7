#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <vector>

#include "handover/memory/ram_migration.h"

namespace handover {

/// What RAM has moved so far.  One thread moves and counts; any thread reads.
class RamProgress {
 public:
  void reset();
  /// A dirty sync was made and found `dirty_pages`.
  void begin_round(std::uint64_t dirty_pages);
  /// No round follows: its clock stops.
  void end_rounds();
  void count(const ItemCounters& moved);

  ItemCounters counters() const;
  std::uint64_t sync_count() const { return syncs_.load(std::memory_order_relaxed); }
  std::uint64_t dirty_pages_rate() const { return rate_.load(std::memory_order_relaxed); }
  std::vector<RamRound> rounds() const;

 private:
  using Clock = std::chrono::steady_clock;
  double seconds_of_round() const;
  void close_round();

  std::atomic<std::uint64_t> syncs_{0};
  std::atomic<std::uint64_t> rate_{0};
  mutable std::mutex mutex_;  // a leaf; guards what follows
  ItemCounters total_;
  std::vector<RamRound> rounds_;
  Clock::time_point round_start_;
  bool round_open_ = false;
};

}  // namespace handover
