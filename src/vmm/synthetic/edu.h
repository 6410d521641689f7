#pragma once

#include <cstdint>

/// QEMU's educational device, as the guest's driver knows it: registers in BAR 0, a buffer of 4 KiB, and an
/// engine that copies between it and memory below 256 MiB.  (QEMU 7.2, docs/specs/edu.)
namespace handover::vmm::synthetic {

inline constexpr std::uint16_t kEduVendor = 0x1234;
inline constexpr std::uint16_t kEduDevice = 0x11e8;

namespace edu {
inline constexpr std::uint32_t kIdentification = 0x00;
inline constexpr std::uint32_t kLiveness = 0x04;  ///< what is written is read inverted
inline constexpr std::uint32_t kInterruptStatus = 0x24;
inline constexpr std::uint32_t kInterruptAcknowledge = 0x64;
inline constexpr std::uint32_t kDmaSource = 0x80;
inline constexpr std::uint32_t kDmaDestination = 0x88;
inline constexpr std::uint32_t kDmaCount = 0x90;
inline constexpr std::uint32_t kDmaCommand = 0x98;

inline constexpr std::uint32_t kIdentificationValue = 0x010000ed;
inline constexpr std::uint32_t kDmaDone = 0x100;  ///< in the interrupt status
inline constexpr std::uint32_t kDmaStart = 1;
inline constexpr std::uint32_t kDmaToMemory = 2;
inline constexpr std::uint32_t kDmaInterrupt = 4;
inline constexpr std::uint64_t kBuffer = 0x40000;
/// A transfer to the end of the buffer makes QEMU 7.2 abort.
inline constexpr std::uint32_t kTransfer = 2048;
inline constexpr std::uint64_t kReach = std::uint64_t{1} << 28;
}  // namespace edu

}  // namespace handover::vmm::synthetic
