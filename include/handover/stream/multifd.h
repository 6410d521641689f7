#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>

#include "handover/base/result.h"
#include "handover/stream/stream_reader.h"

/// What travels on multifd channels (qemu-stream 5): one initial packet, then packets of guest pages and of
/// device state, until the channel ends.  Sizes are for pages of 4 KiB.
namespace handover::stream::multifd {

inline constexpr std::uint32_t kMagic = 0x11223344;
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kInitialSize = 64;
inline constexpr std::size_t kPagesPerPacket = 128;
inline constexpr std::size_t kRamHeaderSize = 320 + 8 * kPagesPerPacket;
inline constexpr std::size_t kDeviceHeaderSize = 276;
/// Longest name of a RAM block or a section, its NUL not counted.
inline constexpr std::size_t kMaxName = 255;

inline constexpr std::uint32_t kFlagSync = 0x01;
inline constexpr std::uint32_t kCompressionMask = 0x3e;
inline constexpr std::uint32_t kFlagDeviceState = 0x40;

/// The first packet of a channel.
struct Initial {
  std::array<std::byte, 16> uuid{};  ///< of the machine; zeros if it has none
  std::uint8_t channel = 0;
};
void encode(const Initial& packet, std::span<std::byte, kInitialSize> to);
Result<Initial> read_initial(StreamReader& in);

/// Pages of one block, or a synchronisation point.  The data of the normal pages follows, in order.
struct RamPacket {
  bool sync = false;
  std::uint64_t number = 0;  ///< counted over all channels; for people
  std::string block{};
  std::uint32_t normal = 0;
  std::uint32_t zero = 0;
  /// Offsets in the block, in bytes: `normal` of them, then `zero`.  Not sorted.
  std::array<std::uint64_t, kPagesPerPacket> offsets{};

  std::span<const std::uint64_t> normal_offsets() const { return std::span(offsets).first(normal); }
  std::span<const std::uint64_t> zero_offsets() const { return std::span(offsets).subspan(normal, zero); }
};
void encode(const RamPacket& packet, std::span<std::byte, kRamHeaderSize> to);

/// Device state; `size` bytes follow.
struct DevicePacket {
  std::string section{};
  std::uint32_t instance = 0;
  std::uint32_t size = 0;
};
void encode(const DevicePacket& packet, std::span<std::byte, kDeviceHeaderSize> to);

/// The header of the next packet.  Refuses compression, counts beyond the packet's size, offsets that are no
/// page's, names without an end; what the offsets and names mean is the caller's to check.
Result<std::variant<RamPacket, DevicePacket>> read_packet(StreamReader& in);

}  // namespace handover::stream::multifd
