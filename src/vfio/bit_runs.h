#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "handover/base/byte_order.h"

namespace handover::vfio {

/// Calls visit(first, count) for every run of ones among the bits [from, end) of a little-endian bitmap, in
/// ascending order.  The bitmap has `end` bits; costs a look at each word and a call for each run.
template <class Visit>
void for_each_bit_run(std::span<const std::byte> bitmap, std::uint64_t from, std::uint64_t end, Visit visit) {
  std::uint64_t run = 0;    // where the run under way began
  std::uint64_t count = 0;  // 0: there is none
  for (auto word = from / 64; word * 64 < end; ++word) {
    std::byte raw[8]{};
    const auto at = word * 8;
    std::copy_n(bitmap.begin() + static_cast<std::ptrdiff_t>(at),
                std::min<std::uint64_t>(8, bitmap.size() - at), raw);
    auto bits = load_le<std::uint64_t>(raw);
    if (word == from / 64) bits &= ~std::uint64_t{0} << from % 64;
    if (end - word * 64 < 64) bits &= (std::uint64_t{1} << end % 64) - 1;
    while (bits != 0) {
      const auto first = static_cast<unsigned>(std::countr_zero(bits));
      const auto ones = static_cast<unsigned>(std::countr_one(bits >> first));
      const auto bit = word * 64 + first;
      if (count > 0 && run + count == bit) {
        count += ones;
      } else {
        if (count > 0) visit(run, count);
        run = bit;
        count = ones;
      }
      bits = first + ones == 64 ? 0 : bits & ~std::uint64_t{0} << (first + ones);
    }
  }
  if (count > 0) visit(run, count);
}

}  // namespace handover::vfio
