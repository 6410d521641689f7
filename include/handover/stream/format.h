#pragma once

#include <cstdint>
#include <string_view>

/// Numbers of QEMU's migration stream, version 3 (QEMU 11.1).
namespace handover::stream {

inline constexpr std::uint32_t kFileMagic = 0x5145564d;  // "QEVM"
inline constexpr std::uint32_t kFileVersion = 3;

enum class Record : std::uint8_t {
  eof = 0x00,
  section_start = 0x01,
  section_part = 0x02,
  section_end = 0x03,
  section_full = 0x04,
  subsection = 0x05,
  vmdescription = 0x06,
  configuration = 0x07,
  command = 0x08,
  section_footer = 0x7e,
};

enum class Command : std::uint16_t {
  open_return_path = 1,
  ping = 2,
  postcopy_advise = 3,
  postcopy_listen = 4,
  postcopy_run = 5,
  postcopy_ram_discard = 6,
  packaged = 7,
  postcopy_resume = 9,
  recv_bitmap = 10,
  switchover_start = 11,
};

/// Messages of the destination on the return path.
enum class Reply : std::uint16_t {
  shut = 1,
  pong = 2,
  req_pages_id = 3,
  req_pages = 4,
  recv_bitmap = 5,
  resume_ack = 6,
  switchover_ack = 7,
  /// Handover's own, sent only to a source that asked with its PING (migration/protocol.h): how far a section
  /// has been loaded.
  load_progress = 0x4801,
};

/// Flags in the low bits of a RAM word; the rest of the word is an offset in a block.
namespace ram {
inline constexpr std::uint64_t kZero = 0x002;
inline constexpr std::uint64_t kMemSize = 0x004;
inline constexpr std::uint64_t kPage = 0x008;
inline constexpr std::uint64_t kEos = 0x010;
inline constexpr std::uint64_t kContinue = 0x020;
inline constexpr std::uint64_t kXbzrle = 0x040;
inline constexpr std::uint64_t kMultifdFlush = 0x200;
inline constexpr std::uint32_t kSectionVersion = 4;
inline constexpr std::string_view kSectionName = "ram";
}  // namespace ram

/// Tags in the body of a `.../vfio` section.
namespace vfio_tag {
inline constexpr std::uint64_t kEndOfState = 0xffffffffef100001;
inline constexpr std::uint64_t kDevConfigState = 0xffffffffef100002;
inline constexpr std::uint64_t kDevSetupState = 0xffffffffef100003;
inline constexpr std::uint64_t kDevDataState = 0xffffffffef100004;
inline constexpr std::uint64_t kDevInitDataSent = 0xffffffffef100005;
inline constexpr std::uint64_t kDevConfigLoadReady = 0xffffffffef100006;
inline constexpr std::uint32_t kSectionVersion = 1;
}  // namespace vfio_tag

/// Largest payload of a return-path message that QEMU accepts.
inline constexpr std::size_t kMaxReplyPayload = 512;
/// We refuse a vmdescription longer than this.
inline constexpr std::uint32_t kMaxVmdescription = 64u << 20;

}  // namespace handover::stream
