#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "handover/base/units.h"

namespace handover {

/// One way to look for a byte that is not zero, in kPageSize bytes at a page border.
struct ZeroPageCheck {
  std::string_view name;
  bool (*is_zero)(const std::byte* page);
};

/// Those that this CPU can run, widest first; the last one runs everywhere.
std::span<const ZeroPageCheck> zero_page_checks();

/// The whole page, with the widest registers that there are.
bool is_zero_page_thorough(const std::byte* page);

/// True if all kPageSize bytes are zero.  Most pages that are not show it in one of three words.
inline bool is_zero_page(const std::byte* page) {
  std::uint64_t first;
  std::uint64_t middle;
  std::uint64_t last;
  std::memcpy(&first, page, sizeof first);
  std::memcpy(&middle, page + kPageSize / 2, sizeof middle);
  std::memcpy(&last, page + kPageSize - sizeof last, sizeof last);
  return (first | middle | last) == 0 && is_zero_page_thorough(page);
}

}  // namespace handover
