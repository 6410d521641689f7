#pragma once

#include <cstddef>
#include <cstdint>

#include "devices/accelerator/device_memory.h"
#include "devices/accelerator/interface.h"
#include "handover/base/units.h"

/// The accelerator's migration stream.  All integers are little-endian.
///
///     preamble   magic, version
///     frame...   u32 type, u32 length of the payload, payload, u64 XXH3 of all three, seeded with the
///                frame's number (from 0): a frame that is altered, lost or moved is noticed
///
/// The first two frames are the configuration and the map of written memory ("initial bytes"); pages follow
/// while the device runs, the newest content of a page last; once it stopped, the remaining pages, the
/// window, the device record and the end.
namespace handover::accelerator::stream {

inline constexpr std::uint64_t kMagic = 0x43434148444e4148;  // "HANDHACC"
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kPreambleSize = 16;  // u64 magic, u32 version, u32 0

inline constexpr std::size_t kFrameHeaderSize = 8;
inline constexpr std::size_t kChecksumSize = 8;

enum class FrameType : std::uint32_t {
  configuration = 1,  ///< u64 memory size, u64 window size, u32 MSI-X vectors, u16 vendor, u16 device
  written_map = 2,    ///< one bit per chunk of 64 KiB that was ever written, least significant first
  pages = 3,          ///< u64 first page, u32 pages, u32 0, then their content
  zero_pages = 4,     ///< u64 first page, u64 pages
  window = 5,
  device = 6,  ///< device_record.h
  end = 7,     ///< u64 frames before this one
};

inline constexpr std::size_t kConfigurationSize = 24;
inline constexpr std::size_t kPagesHeaderSize = 16;
inline constexpr std::size_t kZeroPagesSize = 16;
inline constexpr std::size_t kEndSize = 8;

/// So that a frame of pages fits into a read of 1 MiB.
inline constexpr std::uint64_t kMaxPages = 255;

inline constexpr std::size_t frame_size(std::size_t payload) {
  return kFrameHeaderSize + payload + kChecksumSize;
}
inline constexpr std::size_t pages_frame_size(std::uint64_t pages) {
  return frame_size(kPagesHeaderSize + pages * kPageSize);
}
inline constexpr std::size_t written_map_size(std::uint64_t chunks) {
  return (chunks + 7) / 8;
}

}  // namespace handover::accelerator::stream
