#pragma once

#include <cstddef>
#include <span>

namespace handover {

/// Copies between our memory and a mapping of a file that somebody else may cut short at any moment.
///
/// Touching a page beyond the end of such a file raises SIGBUS; these ask the kernel to copy instead and
/// return false if a page is not there.  Slower than a plain copy by a system call and a page walk.
bool guarded_read(std::span<std::byte> to, const std::byte* mapped);
bool guarded_write(std::byte* mapped, std::span<const std::byte> from);

/// True if the file can never shrink (F_SEAL_SHRINK), so that a plain copy is safe.
bool cannot_shrink(int fd);

}  // namespace handover
