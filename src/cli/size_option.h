#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "handover/base/result.h"

namespace handover::cli {

/// Reads a size as people type it: 256M, 1G, 1.5 is none.  K, M, G and T are powers of 1024 in either case,
/// an `iB` or `B` may follow; a plain number is bytes.
Result<std::uint64_t> parse_size(std::string_view text);

/// The shortest exact way to type a size: 1M, 16G, 4097.
std::string size_argument(std::uint64_t bytes);

struct SizeRange {
  std::uint64_t least = 0;
  std::uint64_t most = 0;
  std::uint64_t multiple_of = 1;
  std::string example = "256M";
};

/// For `add_option(name, std::uint64_t)->transform(size_in(range))`: anything else is a usage error that
/// says the range and how a size is spelled.
CLI::Validator size_in(SizeRange range);

}  // namespace handover::cli
