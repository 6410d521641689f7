#include "handover/stream/command.h"

#include <algorithm>

namespace handover::stream {
namespace {

/// What is known of one command.  A length of -1 stands for any.
struct Row {
  Command command;
  std::string_view name;
  int length;
  int other_length;
};

constexpr Row kCommands[] = {
    {Command::open_return_path, "OPEN_RETURN_PATH", 0, 0},
    {Command::ping, "PING", 4, 4},
    {Command::postcopy_advise, "POSTCOPY_ADVISE", 0, 16},
    {Command::postcopy_listen, "POSTCOPY_LISTEN", 0, 0},
    {Command::postcopy_run, "POSTCOPY_RUN", 0, 0},
    {Command::postcopy_ram_discard, "POSTCOPY_RAM_DISCARD", -1, -1},
    {Command::packaged, "PACKAGED", 4, 4},
    {Command::postcopy_resume, "POSTCOPY_RESUME", 0, 0},
    {Command::recv_bitmap, "RECV_BITMAP", -1, -1},
    {Command::switchover_start, "SWITCHOVER_START", 0, 0},
};

const Row* find(Command command) {
  const auto* row = std::ranges::find(kCommands, command, &Row::command);
  return row == std::end(kCommands) ? nullptr : row;
}

}  // namespace

std::string_view command_name(Command command) {
  const Row* row = find(command);
  return row != nullptr ? row->name : "unknown";
}

void write_command(StreamWriter& out, Command command, std::span<const std::byte> payload) {
  out.u8(static_cast<std::uint8_t>(Record::command));
  out.be16(static_cast<std::uint16_t>(command));
  out.be16(static_cast<std::uint16_t>(payload.size()));
  out.bytes(payload);
}

void write_ping(StreamWriter& out, std::uint32_t token) {
  std::byte payload[sizeof token];
  store_be(payload, token);
  write_command(out, Command::ping, payload);
}

Result<CommandRecord> read_command(StreamReader& in) {
  const std::uint64_t at = in.offset();
  HANDOVER_ASSIGN_CONTEXT(auto number, in.be16(), "reading a command");
  HANDOVER_ASSIGN_CONTEXT(auto length, in.be16(), "reading a command");
  CommandRecord record;
  record.command = static_cast<Command>(number);
  const Row* row = find(record.command);
  if (row == nullptr) return fail(Errc::protocol, "unknown command {} at offset {}", number, at);
  if (row->length >= 0 && length != row->length && length != row->other_length)
    return fail(Errc::protocol, "command {} at offset {} has {} bytes of payload instead of {}", row->name,
                at, length, row->other_length);
  record.payload.resize(length);
  HANDOVER_TRY_CONTEXT(in.bytes(record.payload), "in the payload of command {}", row->name);
  return record;
}

}  // namespace handover::stream
