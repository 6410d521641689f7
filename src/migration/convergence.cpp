#include "migration/convergence.h"

#include <algorithm>
#include <utility>

namespace handover {

void Convergence::Meter::add(std::uint64_t more, Seconds took) {
  bytes += more;
  busy += took;
  if (busy < kWindow || bytes < kTooFew) return;
  rate = static_cast<double>(bytes) / busy.count();
  bytes = 0;
  busy = Seconds{0};
}

void Convergence::Meter::settle() {
  if (rate == 0 && bytes >= kTooFew && busy > Seconds{0}) rate = static_cast<double>(bytes) / busy.count();
}

Convergence::Item& Convergence::slot(std::size_t item) {
  if (items_.size() <= item) items_.resize(item + 1);
  return items_[item];
}

void Convergence::sent(std::size_t item, std::uint64_t bytes, Seconds busy) {
  slot(item).sending.add(bytes, busy);
  all_.add(bytes, busy);
}

void Convergence::loaded(std::size_t item, std::uint64_t bytes, Seconds busy) {
  if (bytes >= kTooFew && busy > Seconds{0}) slot(item).load_rate = static_cast<double>(bytes) / busy.count();
}

void Convergence::settle() {
  settled_ = true;
  all_.settle();
  for (auto& item : items_)
    item.sending.settle();
}

double Convergence::rate_of(std::size_t item, const Parameters& parameters) const {
  const double measured = send_rate(item) > 0 ? send_rate(item) : all_.rate;
  const double sending = parameters.avail_switchover_bandwidth != 0
                             ? static_cast<double>(parameters.avail_switchover_bandwidth)
                             : measured;
  return load_rate(item) > 0 ? std::min(sending, load_rate(item)) : sending;
}

double Convergence::expected_downtime_ms(std::span<const Pending> pending,
                                         const Parameters& parameters) const {
  double in_turn = 0;
  double side_by_side = 0;
  std::uint64_t bytes = 0;
  for (std::size_t item = 0; item < pending.size(); ++item) {
    if (pending[item].total() == 0) continue;
    const double rate = rate_of(item, parameters);
    if (rate <= 0 && settled_) continue;
    if (rate <= 0) return -1;
    const double takes = static_cast<double>(pending[item].total()) * 1000 / rate;
    bytes += pending[item].total();
    if (item < items_.size() && items_[item].parallel)
      side_by_side = std::max(side_by_side, takes);
    else
      in_turn += takes;
  }
  // No item is faster than the link.
  double link = static_cast<double>(parameters.avail_switchover_bandwidth);
  if (link == 0)
    for (const auto& item : items_)
      link = std::max(link, item.sending.rate);
  const double on_the_link = side_by_side > 0 && link > 0 ? static_cast<double>(bytes) * 1000 / link : 0;
  return std::max({in_turn, side_by_side, on_the_link});
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
