// Addresses that a user may type: refused in words, or printed in a spelling that means the same.
#include <cstdint>
#include <cstdlib>

#include "handover/channel/address.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace handover;
  auto address = Address::parse({reinterpret_cast<const char*>(data), size});
  if (!address) {
    if (address.error().code() != Errc::invalid_argument) std::abort();
    return 0;
  }
  const auto text = address->to_string();
  auto again = Address::parse(text);
  if (!again || again->kind != address->kind || again->host != address->host ||
      again->port != address->port || again->path != address->path || again->offset != address->offset ||
      again->fd != address->fd)
    std::abort();
  return 0;
}
