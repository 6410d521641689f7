// The `uri` and `channels` arguments, and addresses as QAPI SocketAddress.

#include <limits>

#include "control/json_members.h"
#include "control/migration_json.h"

namespace handover::control {

using nlohmann::json;

namespace {

// Addresses have one spelling and one set of rules: those of Address::parse().
Result<Address> from_inet(const json& addr) {
  HANDOVER_TRY(only_members(addr, "an inet address", {"transport", "type", "host", "port"}));
  HANDOVER_ASSIGN(const auto host, required_text(addr, "host"));
  HANDOVER_ASSIGN(const auto port, required_text(addr, "port"));
  const bool bare_v6 = host.find(':') != std::string::npos && !host.starts_with('[');
  return Address::parse(bare_v6 ? fmt::format("tcp:[{}]:{}", host, port)
                                : fmt::format("tcp:{}:{}", host, port));
}

Result<Address> from_socket(const json& addr) {
  HANDOVER_ASSIGN(const auto type, required_text(addr, "type"));
  if (type == "inet") return from_inet(addr);
  if (type == "unix") {
    HANDOVER_TRY(only_members(addr, "a unix address", {"transport", "type", "path"}));
    HANDOVER_ASSIGN(const auto path, required_text(addr, "path"));
    return Address::parse("unix:" + path);
  }
  if (type == "fd") {
    HANDOVER_TRY(only_members(addr, "an fd address", {"transport", "type", "str"}));
    HANDOVER_ASSIGN(const auto number, required_text(addr, "str"));
    return Address::parse("fd:" + number);
  }
  return fail(Errc::unsupported, "no socket addresses of type '{:.80}'; inet, unix and fd are possible",
              type);
}

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (char c : word)
    text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

// The command goes through a shell, which gives the words back as they are.
Result<Address> from_exec(const json& addr) {
  HANDOVER_TRY(only_members(addr, "an exec address", {"transport", "args"}));
  const auto args = addr.find("args");
  if (args == addr.end() || !args->is_array() || args->empty())
    return fail(Errc::invalid_argument, "'args' must be a list with the command and its arguments");
  std::string command;
  for (const auto& word : *args) {
    if (!word.is_string()) return fail(Errc::invalid_argument, "'args' must be a list of strings");
    const auto& text = word.get_ref<const std::string&>();
    if (text.find('\0') != std::string::npos)
      return fail(Errc::invalid_argument, "'args' must not contain a zero character");
    command += (command.empty() ? "" : " ") + quoted(text);
  }
  return Address::parse("exec:" + command);
}

Result<Address> from_file(const json& addr) {
  HANDOVER_TRY(only_members(addr, "a file address", {"transport", "filename", "offset"}));
  HANDOVER_ASSIGN(auto path, required_text(addr, "filename"));
  HANDOVER_ASSIGN(const auto offset, optional_number(addr, "offset"));
  if (path.empty()) return fail(Errc::invalid_argument, "'filename' is empty");
  if (offset && *offset > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return fail(Errc::invalid_argument, "'offset' is beyond what a file can have");
  Address address;
  address.kind = Address::Kind::file;
  address.path = std::move(path);
  address.offset = offset.value_or(0);
  return address;
}

Result<Address> from_channels(const json& channels) {
  if (!channels.is_array() || channels.size() != 1)
    return fail(Errc::invalid_argument, "'channels' must be a list of one channel, the main one");
  const auto& channel = channels[0];
  HANDOVER_TRY(only_members(channel, "a channel", {"channel-type", "addr"}));
  HANDOVER_ASSIGN(const auto type, required_text(channel, "channel-type"));
  if (type != "main") return fail(Errc::unsupported, "no channels of type '{:.80}'; it must be main", type);
  const auto addr = channel.find("addr");
  if (addr == channel.end() || !addr->is_object())
    return fail(Errc::invalid_argument, "'addr' must be an object with a 'transport'");
  HANDOVER_ASSIGN(const auto transport, required_text(*addr, "transport"));
  if (transport == "socket") return from_socket(*addr);
  if (transport == "exec") return from_exec(*addr);
  if (transport == "file") return from_file(*addr);
  return fail(Errc::unsupported, "no transport '{:.80}'; socket, exec and file are possible", transport);
}

}  // namespace

Result<Address> migration_address(const json& arguments) {
  const auto channels = arguments.find("channels");
  HANDOVER_ASSIGN(const auto uri, optional_text(arguments, "uri"));
  if (uri.has_value() == (channels != arguments.end()))
    return fail(Errc::invalid_argument, "exactly one of 'uri' and 'channels' says where the stream goes");
  return uri ? Address::parse(*uri) : from_channels(*channels);
}

std::optional<json> socket_address_json(const Address& address) {
  switch (address.kind) {
    case Address::Kind::tcp:
      return json{{"type", "inet"}, {"host", address.host}, {"port", std::to_string(address.port)}};
    case Address::Kind::unix_socket:
      return json{{"type", "unix"}, {"path", address.path}};
    case Address::Kind::fd:
      return json{{"type", "fd"}, {"str", std::to_string(address.fd)}};
    default:
      return std::nullopt;
  }
}

}  // namespace handover::control
