#include "migration/convergence.h"

namespace handover {

void Convergence::sent(std::uint64_t bytes, Seconds busy) {
  window_bytes_ += bytes;
  window_busy_ += busy;
  if (window_busy_ < kWindow) return;
  bandwidth_ = static_cast<double>(window_bytes_) / window_busy_.count();
  window_bytes_ = 0;
  window_busy_ = Seconds{0};
}

void Convergence::settle() {
  if (bandwidth_ == 0 && window_busy_ > Seconds{0})
    bandwidth_ = static_cast<double>(window_bytes_) / window_busy_.count();
}

double Convergence::switchover_bandwidth(const Parameters& parameters) const {
  return parameters.avail_switchover_bandwidth != 0
             ? static_cast<double>(parameters.avail_switchover_bandwidth)
             : bandwidth_;
}

double Convergence::expected_downtime_ms(const Pending& pending, const Parameters& parameters) const {
  if (pending.total() == 0) return 0;
  const double bandwidth = switchover_bandwidth(parameters);
  return bandwidth > 0 ? static_cast<double>(pending.total()) * 1000 / bandwidth : -1;
}

bool Convergence::fits(const Pending& pending, const Parameters& parameters) const {
  if (pending.hold_switchover) return false;
  const double expected = expected_downtime_ms(pending, parameters);
  return expected >= 0 && expected <= static_cast<double>(parameters.downtime_limit_ms);
}

}  // namespace handover
