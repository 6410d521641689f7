#pragma once

#include <cstdint>
#include <span>

#include "handover/base/result.h"
#include "handover/stream/stream_reader.h"

namespace handover::stream {

/// Skips to the first place where `ending`, then the footer of section `id`, then something like the next
/// record stands, and returns how many bytes that were.
///
/// A guess, for bodies whose length nobody knows: a body may contain the same bytes by chance.
Result<std::uint64_t> skip_to_footer(StreamReader& in, std::uint32_t id,
                                     std::span<const std::byte> ending = {});

}  // namespace handover::stream
