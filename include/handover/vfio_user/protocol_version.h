#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "handover/vfio_user/protocol_fields.h"

/// The payload of VERSION (1).
namespace handover::vfio_user::protocol {

inline constexpr std::uint16_t kMajor = 0;
inline constexpr std::uint16_t kMinor = 2;
/// The JSON text that we accept at the most, and how deep it may nest.
inline constexpr std::size_t kMaxVersionText = 16 * 1024;
inline constexpr int kMaxVersionDepth = 16;
/// QEMU 11.1 refuses a VERSION reply longer than its own request, header included.
inline constexpr std::size_t kMaxVersionReply = 214;

// Not nested in Capabilities: there Clang takes them for not default-constructible until that is complete.
struct TwinSocketCapability {
  bool supported = false;
  std::optional<std::uint64_t> fd_index;  ///< replies only
  bool operator==(const TwinSocketCapability&) const = default;
};
struct MigrationCapability {
  std::optional<std::uint64_t> pgsize;
  std::optional<std::uint64_t> max_bitmap_size;
  bool operator==(const MigrationCapability&) const = default;
};

/// The version JSON.  Absent keys have the specification's defaults.
struct Capabilities {
  using TwinSocket = TwinSocketCapability;
  using Migration = MigrationCapability;
  static constexpr std::uint64_t kDefaultTransfer = 1048576;
  static constexpr std::uint64_t kDefaultDmaMaps = 65535;
  static constexpr std::uint64_t kDefaultPageSizes = 4096;

  std::uint64_t max_msg_fds = 1;
  std::uint64_t max_data_xfer_size = kDefaultTransfer;
  std::uint64_t max_dma_maps = kDefaultDmaMaps;
  std::uint64_t pgsizes = kDefaultPageSizes;
  std::optional<TwinSocket> twin_socket;
  bool write_multiple = false;
  std::optional<Migration> migration;
  /// Handover's own key, an object without content so far: the peer is Handover, takes data messages as
  /// large as max_data_xfer_size, and knows the features beyond vfio-user 0.9.2.  A server sends it only
  /// to clients that sent it first.
  bool handover = false;

  bool operator==(const Capabilities&) const = default;
};

struct Version {
  std::uint16_t major = kMajor;
  std::uint16_t minor = 0;
  std::string text;  ///< the JSON as it was received, without its NUL; empty: none

  /// Splits the payload; the JSON is not looked at but for its NUL and its length.
  static Result<Version> decode(std::span<const std::byte> payload);
  void encode(NativeWriter& out) const;
};

/// Accepts no text at all, unknown keys, and whole numbers written as floats; refuses what is no JSON object,
/// wrong types, and numbers that are negative or broken.
Result<Capabilities> parse_capabilities(std::string_view text);
/// Compact.  `max_msg_fds` and `max_data_xfer_size` always, the rest only where it differs from its default.
std::string to_json(const Capabilities& capabilities);

}  // namespace handover::vfio_user::protocol
