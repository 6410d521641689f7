#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "handover/base/result.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

namespace handover::stream {

/// The configuration record: what a stream says of its machine (qemu-stream 1.7).
struct Configuration {
  std::string machine{};                     ///< versioned machine type, such as `pc-q35-11.1`
  std::optional<std::uint32_t> page_bits{};  ///< never written for x86
  std::vector<std::string> capabilities{};  ///< of QEMU's only `x-ignore-shared` and `mapped-ram` are written
  std::optional<std::array<std::byte, 16>> uuid{};

  bool has_capability(std::string_view name) const;
  /// Bytes of a target page.
  std::uint64_t page_size() const { return std::uint64_t{1} << page_bits.value_or(12); }
  /// The `configuration` object of the vmdescription.
  nlohmann::ordered_json describe() const;
};

/// We refuse longer machine names, and more capabilities.
inline constexpr std::size_t kMaxMachineName = 255;
inline constexpr std::size_t kMaxCapabilities = 64;

/// Magic, version and configuration record.
void write_header(StreamWriter& out, const Configuration& configuration);
/// Fails on a stream that is none of QEMU's, that is too old, or that has no configuration record.
Result<Configuration> read_header(StreamReader& in);

}  // namespace handover::stream
