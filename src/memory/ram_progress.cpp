#include "memory/ram_progress.h"

namespace handover {

void RamProgress::reset() {
  const std::lock_guard lock(mutex_);
  total_ = {};
  rounds_.clear();
  round_open_ = false;
  syncs_.store(0, std::memory_order_relaxed);
  rate_.store(0, std::memory_order_relaxed);
}

void RamProgress::begin_round(std::uint64_t dirty_pages) {
  const std::lock_guard lock(mutex_);
  if (round_open_) {
    // The first round found everything dirty by definition; a rate needs two syncs.
    const double seconds = seconds_of_round();
    if (seconds > 0)
      rate_.store(static_cast<std::uint64_t>(static_cast<double>(dirty_pages) / seconds),
                  std::memory_order_relaxed);
    close_round();
  }
  RamRound round;
  round.number = rounds_.size() + 1;
  round.dirty_pages = dirty_pages;
  rounds_.push_back(round);
  round_start_ = Clock::now();
  round_open_ = true;
  syncs_.store(rounds_.size(), std::memory_order_relaxed);
}

void RamProgress::end_rounds() {
  const std::lock_guard lock(mutex_);
  if (round_open_) close_round();
}

void RamProgress::count(const ItemCounters& moved) {
  const std::lock_guard lock(mutex_);
  total_.bytes += moved.bytes;
  total_.normal_pages += moved.normal_pages;
  total_.zero_pages += moved.zero_pages;
  if (!round_open_) return;
  rounds_.back().bytes += moved.bytes;
  rounds_.back().normal_pages += moved.normal_pages;
  rounds_.back().zero_pages += moved.zero_pages;
}

ItemCounters RamProgress::counters() const {
  const std::lock_guard lock(mutex_);
  return total_;
}

std::vector<RamRound> RamProgress::rounds() const {
  const std::lock_guard lock(mutex_);
  auto rounds = rounds_;
  if (round_open_) rounds.back().seconds = seconds_of_round();
  return rounds;
}

double RamProgress::seconds_of_round() const {
  return std::chrono::duration<double>(Clock::now() - round_start_).count();
}

void RamProgress::close_round() {
  rounds_.back().seconds = seconds_of_round();
  round_open_ = false;
}

}  // namespace handover
