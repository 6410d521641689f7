#pragma once

#include <cstdint>
#include <optional>

#include "handover/vfio_abi/device_info.h"
#include "handover/vfio_abi/device_state.h"

/// Migration protocol v1: a region with a block of registers and a data section behind it.  The kernel's VFIO
/// and vfio-user have it alike; integers are in the byte order of the host.
/// Source: VFIO uAPI, Linux 5.8 to 5.17 (VFIO_REGION_TYPE_MIGRATION, struct vfio_device_migration_info).
namespace handover::vfio::v1 {

/// What the region's type capability says.
inline constexpr RegionType kRegionType{3, 1};

/// The registers; each is accessed with its own width at its own offset, and never mapped.
inline constexpr std::uint64_t kDeviceState = 0;   ///< u32: kRunning, kSaving, kResuming; the rest is kept
inline constexpr std::uint64_t kReserved = 4;      ///< u32: reads 0, writes are ignored
inline constexpr std::uint64_t kPendingBytes = 8;  ///< u64, read only
inline constexpr std::uint64_t kDataOffset = 16;   ///< u64, read only: of the chunk, from the region's start
inline constexpr std::uint64_t kDataSize = 24;     ///< u64: read when saving, written when resuming
inline constexpr std::uint64_t kRegisterBlock = 32;

inline constexpr std::uint32_t kStop = 0;
inline constexpr std::uint32_t kRunning = 1;
inline constexpr std::uint32_t kSaving = 2;
inline constexpr std::uint32_t kResuming = 4;
inline constexpr std::uint32_t kPreCopy = kRunning | kSaving;
inline constexpr std::uint32_t kError = kSaving | kResuming;
inline constexpr std::uint32_t kStateMask = kRunning | kSaving | kResuming;

/// The state that the three bits mean; empty for the two combinations that mean nothing.
constexpr std::optional<DeviceState> state_of(std::uint32_t bits) {
  switch (bits & kStateMask) {
    case kStop:
      return DeviceState::stop;
    case kRunning:
      return DeviceState::running;
    case kSaving:
      return DeviceState::stop_copy;
    case kPreCopy:
      return DeviceState::pre_copy;
    case kResuming:
      return DeviceState::resuming;
    case kError:
      return DeviceState::error;
    default:
      return std::nullopt;
  }
}

/// The bits of a state; empty for the P2P states, which v1 does not have.
constexpr std::optional<std::uint32_t> bits_of(DeviceState state) {
  for (const auto bits : {kStop, kRunning, kSaving, kPreCopy, kResuming, kError})
    if (state_of(bits) == state) return bits;
  return std::nullopt;
}

}  // namespace handover::vfio::v1
