#include "devices/accelerator/config_space.h"

#include <algorithm>

#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"

namespace handover::accelerator {
namespace {

using Bytes = std::array<std::byte, ConfigSpace::kSize>;

// Offsets and bits: PCI Local Bus Specification 3.0, chapter 6.
constexpr std::size_t kVendor = 0x00;
constexpr std::size_t kDevice = 0x02;
constexpr std::size_t kCommand = 0x04;
constexpr std::size_t kStatus = 0x06;
constexpr std::size_t kRevision = 0x08;
constexpr std::size_t kClass = 0x0b;
constexpr std::size_t kCacheLine = 0x0c;
constexpr std::size_t kBar0 = 0x10;
constexpr std::size_t kSubsystemVendor = 0x2c;
constexpr std::size_t kSubsystemDevice = 0x2e;
constexpr std::size_t kCapabilities = 0x34;
constexpr std::size_t kInterruptLine = 0x3c;

constexpr std::uint16_t kCommandWritable = 0x0002 | 0x0004 | 0x0040 | 0x0100 | 0x0400;
constexpr std::uint16_t kStatusCapabilities = 0x0010;
constexpr std::byte kProcessingAccelerator{0x12};

constexpr std::byte kMsixId{0x11};
constexpr std::uint16_t kMsixWritable = 0x8000 | 0x4000;  // enable, function mask

template <class T>
void put(Bytes& bytes, std::size_t offset, T value) {
  store_le<T>(bytes.data() + offset, value);
}

Bytes power_on() {
  Bytes bytes{};
  put(bytes, kVendor, kVendorId);
  put(bytes, kDevice, kDeviceId);
  put(bytes, kStatus, kStatusCapabilities);
  bytes[kRevision] = std::byte{1};
  bytes[kClass] = kProcessingAccelerator;
  put(bytes, kSubsystemVendor, kVendorId);
  put(bytes, kSubsystemDevice, kDeviceId);
  bytes[kCapabilities] = std::byte{ConfigSpace::kMsixCapability};

  constexpr std::size_t msix = ConfigSpace::kMsixCapability;
  bytes[msix] = kMsixId;
  put(bytes, msix + 2, static_cast<std::uint16_t>(kMsixVectors - 1));
  put(bytes, msix + 4, kBarMsix);
  put(bytes, msix + 8, kMsixPbaOffset | kBarMsix);
  return bytes;
}

Bytes writable_bits() {
  Bytes mask{};
  put(mask, kCommand, kCommandWritable);
  mask[kCacheLine] = std::byte{0xff};
  // A BAR keeps the address bits above its size: writing all ones and reading back tells the size.
  put(mask, kBar0, static_cast<std::uint32_t>(~(kRegistersSize - 1)));
  put(mask, kBar0 + 4, static_cast<std::uint32_t>(~(kMsixBarSize - 1)));
  put(mask, kBar0 + 8, static_cast<std::uint32_t>(~(kWindowSize - 1)));
  mask[kInterruptLine] = std::byte{0xff};
  put(mask, ConfigSpace::kMsixCapability + 2, kMsixWritable);
  return mask;
}

const Bytes& mask() {
  static const Bytes bits = writable_bits();
  return bits;
}

}  // namespace

void ConfigSpace::reset() {
  bytes_ = power_on();
}

void ConfigSpace::read(std::size_t offset, std::span<std::byte> to) const {
  std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
}

void ConfigSpace::write(std::size_t offset, std::span<const std::byte> from) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::byte bits = mask()[offset + i];
    std::byte& byte = bytes_[offset + i];
    byte = (byte & ~bits) | (from[i] & bits);
  }
}

Status ConfigSpace::load(std::span<const std::byte, kSize> bytes) {
  const Bytes fixed = power_on();
  for (std::size_t i = 0; i < kSize; ++i)
    if (((bytes[i] ^ fixed[i]) & ~mask()[i]) != std::byte{0})
      return fail(Errc::mismatch, "configuration space differs at {:#x}: {:#04x} here, {:#04x} in the stream",
                  i, std::to_integer<unsigned>(fixed[i]), std::to_integer<unsigned>(bytes[i]));
  std::copy(bytes.begin(), bytes.end(), bytes_.begin());
  return {};
}

}  // namespace handover::accelerator
