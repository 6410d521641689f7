#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "handover/base/byte_order.h"

namespace handover::vmm {

/// Registers of a PCI configuration header of type 0 and of the MSI-X capability (PCI Local Bus 3.0).
namespace pci {
inline constexpr std::uint32_t kVendorId = 0x00;
inline constexpr std::uint32_t kDeviceId = 0x02;
inline constexpr std::uint32_t kCommand = 0x04;
inline constexpr std::uint32_t kStatus = 0x06;
inline constexpr std::uint32_t kRevision = 0x08;  // and the class code in the upper 24 bits
inline constexpr std::uint32_t kCacheLineSize = 0x0c;
inline constexpr std::uint32_t kLatencyTimer = 0x0d;
inline constexpr std::uint32_t kHeaderType = 0x0e;
inline constexpr std::uint32_t kBar0 = 0x10;
inline constexpr std::uint32_t kSubsystemVendor = 0x2c;
inline constexpr std::uint32_t kSubsystemId = 0x2e;
inline constexpr std::uint32_t kRomBar = 0x30;
inline constexpr std::uint32_t kCapabilities = 0x34;
inline constexpr std::uint32_t kInterruptLine = 0x3c;
inline constexpr std::uint32_t kInterruptPin = 0x3d;  // 0: none, 1 to 4: INTA to INTD
inline constexpr std::uint32_t kBars = 6;
inline constexpr std::uint32_t kHeaderBytes = 0x40;
inline constexpr std::uint32_t kConfigBytes = 256;
inline constexpr std::uint32_t kExpressConfigBytes = 4096;

inline constexpr std::uint16_t kCommandIo = 0x0001;
inline constexpr std::uint16_t kCommandMemory = 0x0002;
inline constexpr std::uint16_t kCommandBusMaster = 0x0004;
inline constexpr std::uint16_t kCommandWritable = 0x0547;
inline constexpr std::uint16_t kCommandIntxDisable = 0x0400;
inline constexpr std::uint16_t kStatusCapabilities = 0x0010;

inline constexpr std::uint32_t kBarIo = 0x1;
inline constexpr std::uint32_t kBar64 = 0x4;
inline constexpr std::uint32_t kBarTypeMask = 0xf;    // of memory BARs
inline constexpr std::uint32_t kBarIoTypeMask = 0x3;  // of I/O BARs

inline constexpr std::uint8_t kCapabilityMsix = 0x11;
inline constexpr std::uint32_t kMsixControl = 2;  // offsets in the capability
inline constexpr std::uint32_t kMsixTable = 4;
inline constexpr std::uint32_t kMsixPba = 8;
inline constexpr std::uint32_t kMsixBytes = 12;
inline constexpr std::uint16_t kMsixSizeMask = 0x07ff;
}  // namespace pci

/// Where a BAR decodes now.
struct BarDecode {
  std::uint64_t size = 0;  ///< 0: no such BAR (or the upper half of a 64-bit one)
  std::uint64_t address = 0;
  bool memory = true;  ///< or I/O ports
  bool wide = false;   ///< 64 bits
};

/// The configuration space of one device as the guest sees it.
///
/// Command, BARs, the ROM BAR (there is none) and the MSI-X control register are kept here; the rest is a
/// copy of what the device said.  One thread, as AddressSpace.
class ConfigSpace {
 public:
  ConfigSpace() = default;
  /// `initial` as read from the device, 256 or 4096 bytes; sizes of the BAR regions.
  ConfigSpace(std::vector<std::byte> initial, const std::array<std::uint64_t, pci::kBars>& region_sizes);

  std::size_t size() const { return bytes_.size(); }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::uint8_t u8(std::uint32_t at) const { return load_le<std::uint8_t>(bytes_.data() + at); }
  std::uint16_t u16(std::uint32_t at) const { return load_le<std::uint16_t>(bytes_.data() + at); }
  std::uint32_t u32(std::uint32_t at) const { return load_le<std::uint32_t>(bytes_.data() + at); }

  /// True for bytes that this class, not the device, answers for.
  bool emulated(std::uint32_t at) const;
  /// A guest's write; only what is writable of the emulated bytes changes.  The range fits.
  void write_emulated(std::uint32_t at, std::span<const std::byte> from);
  /// Takes over what the device says about the bytes that it answers for.
  void learn(std::uint32_t at, std::span<const std::byte> from);

  std::uint16_t command() const { return u16(pci::kCommand); }
  bool memory_enabled() const { return (command() & pci::kCommandMemory) != 0; }
  bool io_enabled() const { return (command() & pci::kCommandIo) != 0; }
  BarDecode bar(std::uint32_t index) const;

  /// Offset of a capability in the standard list; 0 if there is none.  Ends on any list.
  std::uint8_t find_capability(std::uint8_t id) const;
  /// Offset of the MSI-X capability, 0: none.
  std::uint8_t msix() const { return msix_; }
  std::uint16_t msix_control() const { return msix_ ? u16(msix_ + pci::kMsixControl) : std::uint16_t{0}; }

 private:
  std::uint8_t write_mask(std::uint32_t at) const;

  std::vector<std::byte> bytes_;
  std::array<std::uint64_t, pci::kBars> bar_sizes_{};  // powers of two
  std::uint8_t msix_ = 0;
};

}  // namespace handover::vmm
