#pragma once

#include "check/bench.h"

namespace handover::check {

/// Sizes that no buffer and no record is made for.
inline constexpr std::size_t kOddPieces[] = {1, 7, 4095, 1 * MiB + 1};

/// Small pieces are for the beginning of a state, where its records are; all of a large one would take hours.
inline Cut odd_cut(std::size_t size) {
  constexpr std::size_t kMostCalls = 512;
  return {size, kMostCalls};
}

}  // namespace handover::check
