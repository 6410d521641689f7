#pragma once

#include <cstdint>

/// The UART that the guest has a driver for: a 16550 in an I/O BAR, in which what is sent comes back, as in
/// Linux's sample device mtty.  (National Semiconductor PC16550D, register summary.)
namespace handover::vmm::synthetic {

inline constexpr std::uint16_t kUartVendor = 0x4348;
inline constexpr std::uint16_t kUartDevice = 0x3253;
inline constexpr std::uint32_t kUartFifo = 16;

namespace uart {
inline constexpr std::uint32_t kData = 0;
inline constexpr std::uint32_t kInterruptEnable = 1;
inline constexpr std::uint32_t kFifoControl = 2;
inline constexpr std::uint32_t kLineControl = 3;
inline constexpr std::uint32_t kModemControl = 4;
inline constexpr std::uint32_t kLineStatus = 5;
inline constexpr std::uint32_t kScratch = 7;

inline constexpr std::uint8_t kReceivedDataInterrupt = 0x01;
inline constexpr std::uint8_t kFifoEnableAndClear = 0x07;
inline constexpr std::uint8_t kEightBits = 0x03;
inline constexpr std::uint8_t kModemReady = 0x0b;  ///< DTR, RTS, OUT2
inline constexpr std::uint8_t kDataReady = 0x01;
}  // namespace uart

}  // namespace handover::vmm::synthetic
