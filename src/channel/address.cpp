#include "handover/channel/address.h"

#include <sys/un.h>

#include <charconv>
#include <limits>

namespace handover {
namespace {

constexpr std::string_view kSpellings =
    "write tcp:HOST:PORT, unix:PATH, fd:NUMBER, file:PATH[,offset=N] or exec:COMMAND";
constexpr std::string_view kOffsetOption = ",offset=";

/// A whole decimal (or, for offsets, 0x hexadecimal) number of at most `limit`.
bool parse_number(std::string_view text, std::uint64_t limit, std::uint64_t& value) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  }
  const char* end = text.data() + text.size();
  auto [stopped, error] = std::from_chars(text.data(), end, value, base);
  return error == std::errc{} && stopped == end && !text.empty() && value <= limit;
}

Result<Address> parse_tcp(std::string_view text, std::string_view rest) {
  auto wrong = [&](std::string_view what) {
    return fail(Errc::invalid_argument,
                "'{}' {}; write tcp:HOST:PORT, such as tcp:127.0.0.1:4444 or tcp:[::1]:4444", text, what);
  };
  auto colon = rest.rfind(':');
  if (colon == std::string_view::npos) return wrong("has no port");
  auto host = rest.substr(0, colon);
  auto port = rest.substr(colon + 1);
  if (host.starts_with('[')) {
    if (!host.ends_with(']') || host.size() < 3) return wrong("has an IPv6 address without its brackets");
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong("has an IPv6 address without its brackets");
  }
  if (host.find_first_of("[], ") != std::string_view::npos) return wrong("has no proper host name");
  std::uint64_t number = 0;
  if (port.starts_with("0x") || !parse_number(port, 65535, number))
    return wrong("has no port between 0 and 65535");
  Address address;
  address.host = host;
  address.port = static_cast<std::uint16_t>(number);
  return address;
}

Result<Address> parse_unix(std::string_view text, std::string_view rest) {
  if (rest.empty())
    return fail(Errc::invalid_argument, "'{}' has no path; write unix:PATH, such as unix:/run/vm.sock", text);
  constexpr std::size_t longest = sizeof(sockaddr_un::sun_path) - 1;
  if (rest.size() > longest)
    return fail(Errc::invalid_argument,
                "the path of '{}' is longer than the {} bytes of a unix socket's name; "
                "use a shorter path in unix:PATH",
                text, longest);
  Address address;
  address.kind = Address::Kind::unix_socket;
  address.path = rest;
  return address;
}

Result<Address> parse_fd(std::string_view text, std::string_view rest) {
  std::uint64_t number = 0;
  if (rest.starts_with("0x") || !parse_number(rest, std::numeric_limits<int>::max(), number))
    return fail(Errc::invalid_argument, "'{}' has no descriptor number; write fd:NUMBER, such as fd:3", text);
  Address address;
  address.kind = Address::Kind::fd;
  address.fd = static_cast<int>(number);
  return address;
}

Result<Address> parse_file(std::string_view text, std::string_view rest) {
  Address address;
  address.kind = Address::Kind::file;
  if (auto option = rest.rfind(kOffsetOption); option != std::string_view::npos) {
    if (!parse_number(rest.substr(option + kOffsetOption.size()), std::numeric_limits<std::int64_t>::max(),
                      address.offset))
      return fail(Errc::invalid_argument,
                  "'{}' has no proper offset; write file:PATH,offset=N with N in bytes, such as "
                  "file:/tmp/vm.mig,offset=4096",
                  text);
    rest = rest.substr(0, option);
  }
  if (rest.empty())
    return fail(Errc::invalid_argument, "'{}' has no path; write file:PATH, such as file:/tmp/vm.mig", text);
  address.path = rest;
  return address;
}

Result<Address> parse_exec(std::string_view text, std::string_view rest) {
  if (rest.empty())
    return fail(Errc::invalid_argument, "'{}' has no command; write exec:COMMAND, such as exec:gzip>vm.gz",
                text);
  Address address;
  address.kind = Address::Kind::exec;
  address.path = rest;
  return address;
}

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  if (text.find('\0') != std::string_view::npos)
    return fail(Errc::invalid_argument, "an address must not have a NUL byte; {}", kSpellings);
  auto colon = text.find(':');
  auto scheme = text.substr(0, colon);
  auto rest = colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
  if (colon != std::string_view::npos) {
    if (scheme == "tcp") return parse_tcp(text, rest);
    if (scheme == "unix") return parse_unix(text, rest);
    if (scheme == "fd") return parse_fd(text, rest);
    if (scheme == "file") return parse_file(text, rest);
    if (scheme == "exec") return parse_exec(text, rest);
  }
  return fail(Errc::invalid_argument, "'{}' is not an address; {}", text, kSpellings);
}

std::string Address::to_string() const {
  switch (kind) {
    case Kind::tcp:
      return host.find(':') == std::string::npos ? fmt::format("tcp:{}:{}", host, port)
                                                 : fmt::format("tcp:[{}]:{}", host, port);
    case Kind::unix_socket:
      return "unix:" + path;
    case Kind::fd:
      return fmt::format("fd:{}", fd);
    case Kind::file:
      // A path that itself looks as if it had the option needs the option written out.
      if (offset != 0 || path.find(kOffsetOption) != std::string::npos)
        return fmt::format("file:{}{}{}", path, kOffsetOption, offset);
      return "file:" + path;
    case Kind::exec:
      return "exec:" + path;
  }
  return {};
}

}  // namespace handover
