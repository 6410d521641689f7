#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "vfio_kernel/uapi.h"

namespace handover::vfio_kernel {

/// The ioctl's result, which is not negative; a failure has the errno.  Calls that a signal broke off are
/// made again.
Result<int> call(int fd, unsigned long request, void* argument);
Result<int> call(int fd, unsigned long request, unsigned long value);

/// A structure that the kernel fills, with the capabilities behind it: asked for again with as much room as
/// the kernel wants, up to a limit.
Result<std::vector<std::byte>> ask_with_chain(int fd, unsigned long request,
                                              std::span<const std::byte> question);

/// The capability of that number in a filled structure, from its header on; empty if there is none.  Chains
/// that go in circles or out of the structure end there.
std::span<const std::byte> find_capability(std::span<const std::byte> structure, std::uint32_t first,
                                           std::uint16_t id);

/// Whether the device has the feature in these directions (uapi::kFeatureGet, kFeatureSet).
bool has_feature(int device, std::uint32_t feature, std::uint32_t directions);
/// GET, SET: `data` goes in and comes out.
Status device_feature(int device, std::uint32_t flags, std::span<std::byte> data);

template <class Data>
Status device_feature(int device, std::uint32_t flags, Data& data) {
  return device_feature(device, flags, std::as_writable_bytes(std::span(&data, 1)));
}

}  // namespace handover::vfio_kernel
