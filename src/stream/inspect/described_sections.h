#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "handover/base/result.h"

namespace handover::stream {

/// What a vmdescription says of the bytes of one FULL section.
struct DescribedSection {
  std::string name;
  std::uint64_t instance = 0;
  std::uint64_t size = 0;  ///< bytes of the body
};

struct DescribedSections {
  std::optional<std::uint64_t> page_size;
  std::vector<DescribedSection> sections;  ///< in stream order
};

/// Reads the lengths out of a vmdescription without keeping its tree; duplicate keys do no harm.
Result<DescribedSections> read_described_sections(std::string_view json);

/// More sections than any machine has, and deeper nesting than any device describes, are refused.
inline constexpr std::size_t kMaxDescribedSections = 65536;
inline constexpr std::size_t kMaxDescriptionDepth = 64;

}  // namespace handover::stream
