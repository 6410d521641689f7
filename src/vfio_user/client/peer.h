#pragma once

#include <cstddef>
#include <cstdint>

#include "handover/base/units.h"

namespace handover::vfio_user {

/// What the negotiation has told about the server.
struct Peer {
  bool handover = false;                ///< one of ours
  std::size_t max_transfer = 32 * KiB;  ///< of data in one message
  std::uint64_t max_fds = 1;            ///< with one message
};

/// Other servers may read a body with a single receive; up to 32 KiB always arrive in one piece.
inline constexpr std::size_t kSafeTransfer = 32 * KiB;
inline constexpr std::size_t kOwnTransfer = 1 * MiB;

}  // namespace handover::vfio_user
