#include "handover/stream/multifd.h"

#include <algorithm>
#include <cstring>

#include "handover/base/byte_order.h"
#include "handover/base/units.h"

namespace handover::stream::multifd {
namespace {

constexpr std::size_t kNameBytes = kMaxName + 1;
// Magic, version and flags: what tells one kind of packet from the other.
constexpr std::size_t kPrefixSize = 12;

void put_name(std::span<std::byte> to, const std::string& name) {
  std::memcpy(to.data(), name.data(), std::min(name.size(), kMaxName));
}

Result<std::string> take_name(std::span<const std::byte> from) {
  const auto* text = reinterpret_cast<const char*>(from.data());
  const auto length = ::strnlen(text, from.size());
  if (length == from.size()) return fail(Errc::protocol, "a name of {} bytes has no end", from.size());
  return std::string(text, length);
}

Status check_magic(std::span<const std::byte> bytes) {
  const auto magic = load_be<std::uint32_t>(bytes.data());
  const auto version = load_be<std::uint32_t>(bytes.data() + 4);
  if (magic != kMagic) return fail(Errc::protocol, "{:#x} where a multifd packet begins", magic);
  if (version != kVersion) return fail(Errc::unsupported, "a multifd packet of version {}", version);
  return {};
}

Result<DevicePacket> read_device(StreamReader& in) {
  std::byte rest[kDeviceHeaderSize - kPrefixSize];
  HANDOVER_TRY(in.bytes(rest));
  DevicePacket packet;
  HANDOVER_ASSIGN(packet.section, take_name(std::span(rest).first(kNameBytes)));
  packet.instance = load_be<std::uint32_t>(rest + kNameBytes);
  packet.size = load_be<std::uint32_t>(rest + kNameBytes + 4);
  if (packet.size == 0) return fail(Errc::protocol, "an empty packet of device state");
  return packet;
}

Result<RamPacket> read_ram(StreamReader& in, std::uint32_t flags) {
  std::byte rest[kRamHeaderSize - kPrefixSize];
  HANDOVER_TRY(in.bytes(rest));
  const auto word = [&](std::size_t at) { return load_be<std::uint32_t>(rest + at - kPrefixSize); };
  RamPacket packet;
  packet.sync = (flags & kFlagSync) != 0;
  packet.normal = word(16);
  packet.zero = word(32);
  packet.number = load_be<std::uint64_t>(rest + 24 - kPrefixSize);
  if (word(12) > kPagesPerPacket || packet.normal > kPagesPerPacket ||
      packet.zero > kPagesPerPacket - packet.normal)
    return fail(Errc::protocol, "a packet of {} normal and {} zero pages; {} is the most", packet.normal,
                packet.zero, kPagesPerPacket);
  HANDOVER_ASSIGN(packet.block, take_name(std::span(rest).subspan(64 - kPrefixSize, kNameBytes)));
  for (std::size_t i = 0; i < packet.normal + packet.zero; ++i) {
    packet.offsets[i] = load_be<std::uint64_t>(rest + 320 - kPrefixSize + 8 * i);
    if (packet.offsets[i] % kPageSize != 0)
      return fail(Errc::protocol, "{:#x} is no offset of a page", packet.offsets[i]);
  }
  return packet;
}

}  // namespace

void encode(const Initial& packet, std::span<std::byte, kInitialSize> to) {
  std::ranges::fill(to, std::byte{0});
  store_be(to.data(), kMagic);
  store_be(to.data() + 4, kVersion);
  std::ranges::copy(packet.uuid, to.begin() + 8);
  to[24] = std::byte{packet.channel};
}

Result<Initial> read_initial(StreamReader& in) {
  std::byte bytes[kInitialSize];
  HANDOVER_TRY(in.bytes(bytes));
  HANDOVER_TRY(check_magic(bytes));
  Initial packet;
  std::copy_n(bytes + 8, packet.uuid.size(), packet.uuid.begin());
  packet.channel = std::to_integer<std::uint8_t>(bytes[24]);
  return packet;
}

void encode(const RamPacket& packet, std::span<std::byte, kRamHeaderSize> to) {
  std::ranges::fill(to, std::byte{0});
  auto* at = to.data();
  store_be(at, kMagic);
  store_be(at + 4, kVersion);
  store_be(at + 8, packet.sync ? kFlagSync : 0u);
  store_be(at + 12, packet.sync ? 0u : static_cast<std::uint32_t>(kPagesPerPacket));
  store_be(at + 16, packet.normal);
  store_be(at + 20, static_cast<std::uint32_t>(packet.normal * kPageSize));
  store_be(at + 24, packet.number);
  store_be(at + 32, packet.zero);
  put_name(to.subspan(64, kNameBytes), packet.block);
  for (std::size_t i = 0; i < packet.normal + packet.zero; ++i)
    store_be(at + 320 + 8 * i, packet.offsets[i]);
}

void encode(const DevicePacket& packet, std::span<std::byte, kDeviceHeaderSize> to) {
  std::ranges::fill(to, std::byte{0});
  auto* at = to.data();
  store_be(at, kMagic);
  store_be(at + 4, kVersion);
  store_be(at + 8, kFlagDeviceState);
  put_name(to.subspan(12, kNameBytes), packet.section);
  store_be(at + 268, packet.instance);
  store_be(at + 272, packet.size);
}

Result<std::variant<RamPacket, DevicePacket>> read_packet(StreamReader& in) {
  const auto at = in.offset();
  auto packet = [&]() -> Result<std::variant<RamPacket, DevicePacket>> {
    std::byte prefix[kPrefixSize];
    HANDOVER_TRY(in.bytes(prefix));
    HANDOVER_TRY(check_magic(prefix));
    const auto flags = load_be<std::uint32_t>(prefix + 8);
    if (flags & ~(kFlagSync | kCompressionMask | kFlagDeviceState))
      return fail(Errc::protocol, "flags {:#x} mean nothing", flags);
    if (flags & kCompressionMask)
      return fail(Errc::unsupported, "compressed packets: set multifd-compression to none on the source");
    if (flags & kFlagDeviceState) {
      if (flags & kFlagSync) return fail(Errc::protocol, "device state in a synchronisation packet");
      return read_device(in);
    }
    return read_ram(in, flags);
  }();
  if (packet) return packet;
  return std::unexpected(std::move(packet).error().with_context(
      fmt::format("packet at offset {} of {}", at, in.channel().name())));
}

}  // namespace handover::stream::multifd
