#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "handover/base/byte_order.h"
#include "handover/vfio/device.h"

namespace handover::solo {

/// Registers of a PCI configuration header of type 0 (PCI Local Bus 3.0, chapter 6).
namespace pci {
inline constexpr std::size_t kVendor = 0x00;
inline constexpr std::size_t kDevice = 0x02;
inline constexpr std::size_t kCommand = 0x04;
inline constexpr std::size_t kStatus = 0x06;
inline constexpr std::size_t kRevision = 0x08;  // and the class code in the upper 24 bits
inline constexpr std::size_t kCacheLineSize = 0x0c;
inline constexpr std::size_t kLatencyTimer = 0x0d;
inline constexpr std::size_t kHeaderType = 0x0e;
inline constexpr std::size_t kBar0 = 0x10;
inline constexpr std::size_t kSubsystemVendor = 0x2c;  // and the subsystem's id in the upper 16 bits
inline constexpr std::size_t kCapabilities = 0x34;
inline constexpr std::size_t kInterruptLine = 0x3c;
inline constexpr std::size_t kBars = 6;
inline constexpr std::size_t kHeaderBytes = 0x40;
inline constexpr std::size_t kConfigBytes = 256;
inline constexpr std::size_t kExpressConfigBytes = 4096;

/// I/O and memory space, bus master, parity, SERR#, INTx off: what software may set.
inline constexpr std::uint16_t kCommandWritable = 0x0547;
}  // namespace pci

/// A copy of a device's configuration space, as the device said it.
class PciHeader {
 public:
  /// Reads the configuration region; fails for what is no PCI device with a header of type 0.
  static Result<PciHeader> read(vfio::Device& device);
  /// Of bytes from elsewhere, 256 or 4096.
  explicit PciHeader(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}

  std::span<const std::byte> bytes() const { return bytes_; }
  std::uint8_t u8(std::size_t at) const { return load_le<std::uint8_t>(bytes_.data() + at); }
  std::uint16_t u16(std::size_t at) const { return load_le<std::uint16_t>(bytes_.data() + at); }
  std::uint32_t u32(std::size_t at) const { return load_le<std::uint32_t>(bytes_.data() + at); }

  /// Of the MSI-X capability; 0 if there is none.  Ends on any list of capabilities.
  std::uint32_t msix_vectors() const;

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace handover::solo
