#include "migration/convergence.h"

#include <algorithm>
#include <utility>

namespace handover {

void Convergence::Meter::add(std::uint64_t more, Seconds took) {
  bytes += more;
  busy += took;
  if (busy < kWindow) return;
  rate = static_cast<double>(bytes) / busy.count();
  bytes = 0;
  busy = Seconds{0};
}

void Convergence::Meter::settle() {
  if (rate == 0 && busy > Seconds{0}) rate = static_cast<double>(bytes) / busy.count();
}

void Convergence::sent(std::size_t item, std::uint64_t bytes, Seconds busy) {
  if (items_.size() <= item) items_.resize(item + 1);
  items_[item].add(bytes, busy);
  all_.add(bytes, busy);
}

void Convergence::settle() {
  all_.settle();
  for (auto& item : items_)
    item.settle();
}

double Convergence::rate_of(std::size_t item, const Parameters& parameters) const {
  if (parameters.avail_switchover_bandwidth != 0)
    return static_cast<double>(parameters.avail_switchover_bandwidth);
  return item < items_.size() && items_[item].rate > 0 ? items_[item].rate : all_.rate;
}

double Convergence::expected_downtime_ms(std::span<const Pending> pending,
                                         const Parameters& parameters) const {
  double sum = 0;
  for (std::size_t item = 0; item < pending.size(); ++item) {
    if (pending[item].total() == 0) continue;
    const double rate = rate_of(item, parameters);
    if (rate <= 0) return -1;
    sum += static_cast<double>(pending[item].total()) * 1000 / rate;
  }
  return sum;
}

bool Convergence::fits(std::span<const Pending> pending, const Parameters& parameters) const {
  if (std::ranges::any_of(pending, &Pending::hold_switchover)) return false;
  const double expected = expected_downtime_ms(pending, parameters);
  return expected >= 0 && expected <= static_cast<double>(parameters.downtime_limit_ms);
}

bool Convergence::worth_another_pass(std::span<const Pending> pending, const Parameters& parameters) {
  const double expected = expected_downtime_ms(pending, parameters);
  const double before = std::exchange(last_pass_ms_, expected);
  return expected > static_cast<double>(parameters.downtime_limit_ms) / 10 && expected <= before / 2;
}

}  // namespace handover
