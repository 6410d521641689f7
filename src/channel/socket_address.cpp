#include "channel/socket_address.h"

#include <charconv>
#include <cstring>

namespace handover {

Result<AddrinfoList> resolve(const Address& address, bool listening) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (listening ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const char* host = address.host.empty() ? nullptr : address.host.c_str();
  const int error = ::getaddrinfo(host, std::to_string(address.port).c_str(), &hints, &list);
  if (error != 0)
    return fail(Errc::not_found, "cannot find host '{}' of {}: {}", address.host, address.to_string(),
                ::gai_strerror(error));
  return AddrinfoList(list);
}

Result<sockaddr_un> unix_address(const Address& address) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (address.path.empty() || address.path.size() >= sizeof name.sun_path)
    return fail(Errc::invalid_argument, "{} has no path of 1 to {} bytes", address.to_string(),
                sizeof name.sun_path - 1);
  std::memcpy(name.sun_path, address.path.data(), address.path.size());
  return name;
}

Address describe(const sockaddr_storage& storage, socklen_t size) {
  Address address;
  char host[NI_MAXHOST] = "";
  char port[NI_MAXSERV] = "0";
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&storage), size, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
  address.host = host;
  std::from_chars(port, port + std::strlen(port), address.port);
  return address;
}

}  // namespace handover
