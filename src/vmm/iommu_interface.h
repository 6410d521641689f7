#pragma once

#include <cstdint>

#include "handover/base/units.h"

/// The programming interface of the machine's IOMMU: what the guest's driver and the unit share.
///
/// The guest puts commands into a ring in its memory and writes the tail register; when that write has been
/// done, the unit has carried out all of them in order and has set the status of each.  A device (endpoint)
/// that is attached to no domain reaches nothing.  All integers are little-endian.
namespace handover::vmm::iommu {

/// Where the registers are; below 4 GiB, beside where chipsets have theirs.
inline constexpr Gpa kBase{0xfed90000};
inline constexpr std::uint64_t kSize = 0x1000;

/// Registers.  Accesses are 4 or 8 bytes wide and aligned, one of 8 being one of 4 to the lower and then to
/// the upper half; others read as all ones and write nothing.
namespace reg {
inline constexpr std::uint64_t kId = 0x00;           // u32, RO: kIdValue
inline constexpr std::uint64_t kVersion = 0x04;      // u32, RO: 1
inline constexpr std::uint64_t kIovaBits = 0x08;     // u32, RO: width of an IOVA
inline constexpr std::uint64_t kHead = 0x0c;         // u32, RO: commands done, free running
inline constexpr std::uint64_t kPageSizes = 0x10;    // u64, RO: the lowest bit is the smallest page
inline constexpr std::uint64_t kRingAddress = 0x18;  // u64, RW: guest-physical, aligned to a command
inline constexpr std::uint64_t kRingEntries =
    0x20;                                       // u32, RW: power of two, 2..kMaxRingEntries; sets head to 0
inline constexpr std::uint64_t kTail = 0x24;    // u32, WO: commands there, free running
inline constexpr std::uint64_t kStatus = 0x28;  // u32, RO: kStatusError: the ring cannot be used
}  // namespace reg

inline constexpr std::uint32_t kIdValue = 0x31554d49;  // "IMU1"
inline constexpr std::uint32_t kMaxRingEntries = 256;
inline constexpr std::uint32_t kStatusError = 1;  ///< cleared by a write to kRingEntries

enum class Operation : std::uint32_t {
  attach = 1,  ///< endpoint to domain; leaves the one before
  detach = 2,  ///< endpoint from its domain
  map = 3,     ///< [iova, iova + size) of the domain to [target, target + size)
  unmap = 4,   ///< every mapping inside [iova, iova + size) of the domain; none may be cut
};

inline constexpr std::uint32_t kRead = 1;   ///< flags of map: the device may read
inline constexpr std::uint32_t kWrite = 2;  ///< it may write

enum class CommandStatus : std::uint32_t {
  none = 0,  ///< what the guest puts there
  ok = 1,
  invalid = 2,    ///< it makes no sense, or is no RAM
  not_found = 3,  ///< no such endpoint or domain
  conflict = 4,   ///< overlaps a mapping, or would cut one
  no_space = 5,   ///< too many mappings, for the unit or for a device
  device = 6,     ///< a device could not be told
};

/// A command: 64 bytes.
struct Command {
  std::uint32_t operation = 0;
  std::uint32_t flags = 0;
  std::uint32_t domain = 0;
  std::uint32_t endpoint = 0;  ///< bus, device and function as in PCI
  std::uint64_t iova = 0;
  std::uint64_t size = 0;
  std::uint64_t target = 0;
  std::uint32_t status = 0;
  std::uint32_t reserved[5] = {};
};
static_assert(sizeof(Command) == 64);

/// The endpoint of the device in a slot of bus 0.
inline constexpr std::uint32_t endpoint_of(std::uint32_t slot) {
  return slot << 3;
}

}  // namespace handover::vmm::iommu
