#include "solo/stop_policy.h"

#include <utility>

namespace handover::solo {

void StopPolicy::given(std::uint64_t bytes, double seconds) {
  if (bytes < kTelling || seconds <= 0) return;
  bytes_ += bytes;
  seconds_ += seconds;
}

std::optional<double> StopPolicy::expected_ms(std::uint64_t bytes) const {
  if (bytes_ == 0) return std::nullopt;
  return static_cast<double>(bytes) * seconds_ * 1000 / static_cast<double>(bytes_);
}

bool StopPolicy::hold(std::uint64_t left, std::uint64_t can_precopy, bool exact) {
  if (rounds_) return rounds_made_ < *rounds_;
  const auto expected = expected_ms(left);
  if (!expected) return can_precopy > 0 && rounds_made_ < kPatience;
  if (*expected > limit_ms_) return true;
  if (!exact) return false;
  const double before = std::exchange(last_ms_, *expected);
  return *expected > limit_ms_ / 10 && *expected <= before / 2;
}

}  // namespace handover::solo
