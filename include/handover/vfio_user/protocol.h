#pragma once

#include <cstdint>
#include <string_view>

#include "handover/vfio_user/protocol_device.h"
#include "handover/vfio_user/protocol_dma.h"
#include "handover/vfio_user/protocol_fields.h"
#include "handover/vfio_user/protocol_migration.h"
#include "handover/vfio_user/protocol_version.h"

/// The messages of vfio-user as bytes, without any I/O: the header here, the payloads in the files included.
///
/// Decoders take what the other side sent, check every length in it and never read past its end; what a
/// value means, and whether it is allowed, is for the client and the server to judge.
/// Source: vfio-user specification 0.9.2 and what libvfio-user and QEMU really send.
namespace handover::vfio_user::protocol {

enum class Command : std::uint16_t {
  version = 1,
  dma_map = 2,
  dma_unmap = 3,
  device_get_info = 4,
  device_get_region_info = 5,
  device_get_region_io_fds = 6,
  device_get_irq_info = 7,
  device_set_irqs = 8,
  region_read = 9,
  region_write = 10,
  dma_read = 11,   ///< server to client
  dma_write = 12,  ///< server to client
  device_reset = 13,
  dirty_pages = 14,  ///< migration protocol v1 only
  region_write_multi = 15,
  device_feature = 16,
  mig_data_read = 17,
  mig_data_write = 18,
};
/// The specification's name, "unknown" for other numbers.
std::string_view to_string(Command command);

inline constexpr std::uint32_t kFlagTypeMask = 0xf;
inline constexpr std::uint32_t kFlagReply = 1;
inline constexpr std::uint32_t kFlagNoReply = 0x10;
inline constexpr std::uint32_t kFlagError = 0x20;

/// The 16 bytes that every message starts with.
struct Header {
  std::uint16_t id = 0;       ///< chosen by the sender of the command, echoed in the reply
  std::uint16_t command = 0;  ///< a Command, or anything that a peer sends
  std::uint32_t size = 0;     ///< of the whole message
  std::uint32_t flags = 0;
  std::uint32_t error = 0;  ///< errno (Linux number) if kFlagError is set

  static constexpr auto fields() {
    return std::tuple{&Header::id, &Header::command, &Header::size, &Header::flags, &Header::error};
  }
  bool is_reply() const { return (flags & kFlagTypeMask) == kFlagReply; }
  bool is_command() const { return (flags & kFlagTypeMask) == 0; }
  bool no_reply() const { return flags & kFlagNoReply; }
  bool failed() const { return flags & kFlagError; }
};
inline constexpr std::size_t kHeaderSize = 16;
static_assert(wire_size<Header>() == kHeaderSize);

/// What a message may carry beyond max_data_xfer_size: header, fixed parts, capability chains, JSON.
inline constexpr std::size_t kMessageSlack = 4096;
/// The most descriptors that Linux passes with one message (SCM_MAX_FD).
inline constexpr std::size_t kMaxFds = 253;

}  // namespace handover::vfio_user::protocol
