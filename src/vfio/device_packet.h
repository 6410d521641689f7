#pragma once

#include <cstddef>
#include <cstdint>

#include "handover/base/byte_order.h"
#include "handover/base/result.h"
#include "handover/stream/migratable.h"

namespace handover::vfio {

/// What stands at the beginning of each packet of a device's state (qemu-stream 6.5): three be32, then data.
struct DevicePacketHeader {
  static constexpr std::size_t kSize = 12;
  static constexpr std::uint32_t kConfigState = 1;  // flag
  static constexpr std::uint32_t kInvalidIndex = 0xffffffff;

  std::uint32_t version = 0;
  std::uint32_t index = 0;  ///< from 0, one more for each packet of a device
  std::uint32_t flags = 0;
  bool config() const { return (flags & kConfigState) != 0; }

  void put(std::byte* to) const {
    store_be(to, version);
    store_be(to + 4, index);
    store_be(to + 8, flags);
  }
  /// Checks what every packet must be.
  static Result<DevicePacketHeader> take(const Packet& packet) {
    if (packet.size < kSize) return fail(Errc::protocol, "a packet of {} bytes", packet.size);
    const DevicePacketHeader header{load_be<std::uint32_t>(packet.bytes.get()),
                                    load_be<std::uint32_t>(packet.bytes.get() + 4),
                                    load_be<std::uint32_t>(packet.bytes.get() + 8)};
    if (header.version != 0) return fail(Errc::unsupported, "a packet of version {}", header.version);
    if (header.index == kInvalidIndex || (header.flags & ~kConfigState) != 0)
      return fail(Errc::protocol, "a packet with index {:#x} and flags {:#x}", header.index, header.flags);
    return header;
  }
};

}  // namespace handover::vfio
