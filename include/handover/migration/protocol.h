#pragma once

#include <cstdint>
#include <string_view>

/// What both ends of a Handover migration agree on beyond QEMU's stream.
namespace handover {

/// Machine name in the configuration record.
inline constexpr std::string_view kMachineName = "handover-1";

/// PING tokens.  Both are ordinary PINGs to any reader of the stream.
inline constexpr std::uint32_t kPingOpened = 1;
/// Asks for LOAD_PROGRESS messages from now on.
inline constexpr std::uint32_t kPingProgress = 0x484c4f41;  // "HLOA"
/// The last thing before the end-of-file mark: answered only when everything has been loaded and checked.
inline constexpr std::uint32_t kPingReady = 0x484f5244;  // "HORD"

/// Values of the SHUT message.
inline constexpr std::uint32_t kShutLoaded = 0;
inline constexpr std::uint32_t kShutFailed = 1;

}  // namespace handover
