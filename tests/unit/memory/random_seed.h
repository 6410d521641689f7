#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>

namespace handover::test {

/// A fresh seed, printed; HANDOVER_SEED in the environment repeats an earlier run.
inline std::uint64_t random_seed() {
  const char* fixed = std::getenv("HANDOVER_SEED");
  const std::uint64_t seed = fixed ? std::strtoull(fixed, nullptr, 0) : std::random_device{}();
  std::cout << "seed " << seed << " (HANDOVER_SEED repeats it)\n";
  return seed;
}

}  // namespace handover::test
