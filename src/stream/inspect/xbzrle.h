#pragma once

#include <cstddef>
#include <span>

#include "handover/base/result.h"

namespace handover::stream {

/// Applies an XBZRLE delta to a page (qemu-stream 4.4): runs of unchanged bytes and of replaced ones.
Status apply_xbzrle(std::span<const std::byte> delta, std::span<std::byte> page);

}  // namespace handover::stream
