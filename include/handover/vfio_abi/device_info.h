#pragma once

#include <cstdint>
#include <optional>
#include <vector>

/// Numbers and shapes that the kernel's VFIO and vfio-user share.  Source: VFIO uAPI, Linux 6.12.
namespace handover::vfio {

inline constexpr std::uint32_t kDeviceFlagReset = 1;
inline constexpr std::uint32_t kDeviceFlagPci = 2;

struct DeviceInfo {
  std::uint32_t flags = 0;
  std::uint32_t num_regions = 0;
  std::uint32_t num_irqs = 0;
};

inline constexpr std::uint32_t kRegionBar0 = 0;
inline constexpr std::uint32_t kRegionRom = 6;
inline constexpr std::uint32_t kRegionConfig = 7;
inline constexpr std::uint32_t kRegionVga = 8;
inline constexpr std::uint32_t kPciRegions = 9;

inline constexpr std::uint32_t kRegionRead = 1;
inline constexpr std::uint32_t kRegionWrite = 2;
inline constexpr std::uint32_t kRegionMmap = 4;
inline constexpr std::uint32_t kRegionCaps = 8;

struct RegionArea {
  std::uint64_t offset = 0;  ///< in the region
  std::uint64_t size = 0;
};

/// What a region is for, beyond the fixed indexes (the TYPE capability).
struct RegionType {
  std::uint32_t type = 0;
  std::uint32_t subtype = 0;
  bool operator==(const RegionType&) const = default;
};

struct RegionInfo {
  std::uint32_t index = 0;
  std::uint32_t flags = 0;
  std::uint64_t size = 0;         ///< 0: the region does not exist
  std::uint64_t offset = 0;       ///< where it starts in its file
  std::vector<RegionArea> areas;  ///< what of it can be mapped; empty with kRegionMmap: all of it
  std::optional<RegionType> type = std::nullopt;
};

inline constexpr std::uint32_t kIrqIntx = 0;
inline constexpr std::uint32_t kIrqMsi = 1;
inline constexpr std::uint32_t kIrqMsix = 2;
inline constexpr std::uint32_t kIrqErr = 3;
inline constexpr std::uint32_t kIrqReq = 4;
inline constexpr std::uint32_t kPciIrqs = 5;

inline constexpr std::uint32_t kIrqEventfd = 1;
inline constexpr std::uint32_t kIrqMaskable = 2;
inline constexpr std::uint32_t kIrqAutomasked = 4;
inline constexpr std::uint32_t kIrqNoresize = 8;

struct IrqInfo {
  std::uint32_t index = 0;
  std::uint32_t flags = 0;
  std::uint32_t count = 0;
};

inline constexpr std::uint32_t kDmaRead = 1;   ///< the device may read
inline constexpr std::uint32_t kDmaWrite = 2;  ///< the device may write

/// What a device can say about the data of a pre-copy phase (VFIO_MIG_GET_PRECOPY_INFO).
struct PrecopyInfo {
  std::uint64_t initial_bytes = 0;
  std::uint64_t dirty_bytes = 0;
  /// New initial bytes have appeared since the last answer (REINIT of MIG_PRECOPY_INFOv2).
  bool reinit = false;
};

}  // namespace handover::vfio
