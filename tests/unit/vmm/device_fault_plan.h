#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace handover::test {

/// The calls to a device that can be made to fail.
enum class Call {
  get_state,
  set_state,
  read,
  write,
  precopy_info,
  stop_copy_size,
  reset,
  config_read,
  config_write,
  set_irqs,
  dma_map,
  dma_unmap,
  log_start,
  log_report,
  log_stop,
};
inline constexpr std::array<std::string_view, 15> kCallNames = {
    "get state",  "set state", "read",          "write",          "pre-copy info",
    "size query", "reset",     "config read",   "config write",   "set interrupts",
    "DMA map",    "DMA unmap", "DMA log start", "DMA log report", "DMA log stop"};
inline std::string_view to_string(Call call) {
  return kCallNames[static_cast<std::size_t>(call)];
}

/// What becomes of the call that was picked, and of the device.
enum class Fault {
  refused,  ///< it fails, and the device has done nothing
  done,     ///< it fails, and the device has done it all the same
  mute,     ///< refused, and the device then fails to say in which state it is
  stuck,    ///< refused, and so is every further call of the kind until a reset
  error,    ///< the device is in ERROR until a reset
  dead,     ///< the device is in ERROR, and its reset fails
};
inline constexpr std::array<std::string_view, 6> kFaultNames = {"refused", "done",  "mute",
                                                                "stuck",   "error", "dead"};
inline std::string_view to_string(Fault fault) {
  return kFaultNames[static_cast<std::size_t>(fault)];
}

/// Counts the calls to the devices of one machine and picks the n-th of a kind.  Any thread.
class FaultPlan {
 public:
  /// From now on everything is counted from 0, and the n-th call (from 1) of the kind is the one.
  void arm(Call call, std::uint64_t n, Fault fault) {
    std::lock_guard lock(mutex_);
    counts_ = {};
    armed_ = Pick{call, n, fault};
    hit_.clear();
  }
  /// Counts from 0, and nothing fails.
  void disarm() {
    std::lock_guard lock(mutex_);
    counts_ = {};
    armed_.reset();
    hit_.clear();
  }
  std::uint64_t count(Call call) const {
    std::lock_guard lock(mutex_);
    return counts_[static_cast<std::size_t>(call)];
  }
  /// Whose call it was; empty as long as there was none.
  std::string hit() const {
    std::lock_guard lock(mutex_);
    return hit_;
  }
  /// Counts a call of device `id` and says whether it is the one.
  std::optional<Fault> next(Call call, const std::string& id) {
    std::lock_guard lock(mutex_);
    const auto n = ++counts_[static_cast<std::size_t>(call)];
    if (!armed_ || armed_->call != call || armed_->n != n) return std::nullopt;
    hit_ = id;
    return armed_->fault;
  }

 private:
  struct Pick {
    Call call;
    std::uint64_t n;
    Fault fault;
  };
  mutable std::mutex mutex_;
  std::array<std::uint64_t, kCallNames.size()> counts_{};
  std::optional<Pick> armed_;
  std::string hit_;
};

}  // namespace handover::test
