#pragma once

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <memory>
#include <string>

#include "handover/channel/address.h"

namespace handover {

struct FreeAddrinfo {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using AddrinfoList = std::unique_ptr<addrinfo, FreeAddrinfo>;

/// The socket addresses of a tcp address; no host means every interface when listening, else this machine.
/// Waits for the name service, which cannot be cancelled; numbers and /etc/hosts answer at once.
Result<AddrinfoList> resolve(const Address& address, bool listening);

/// The socket address of a unix path; parse() has checked its length, code that fills Address by hand may
/// not.
Result<sockaddr_un> unix_address(const Address& address);

/// What a socket address is called, as an Address.
Address describe(const sockaddr_storage& storage, socklen_t size);

}  // namespace handover
