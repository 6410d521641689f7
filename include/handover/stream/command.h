#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/stream/format.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

/// COMMAND records: orders of the source to the destination, between sections (qemu-stream 3.1).
namespace handover::stream {

struct CommandRecord {
  Command command{};
  std::vector<std::byte> payload{};  ///< at most 65535 bytes; those of PACKAGED's package follow outside

  /// The be32 that PING (token) and PACKAGED (length of the package) carry.
  std::uint32_t word() const { return load_be<std::uint32_t>(payload.data()); }
};

/// QEMU's name: `SWITCHOVER_START`.
std::string_view command_name(Command command);

/// Type byte, number, length, payload.
void write_command(StreamWriter& out, Command command, std::span<const std::byte> payload = {});
void write_ping(StreamWriter& out, std::uint32_t token);

/// What follows the type byte.  Fails on an unknown command, and on a length that does not fit the command.
Result<CommandRecord> read_command(StreamReader& in);

}  // namespace handover::stream
