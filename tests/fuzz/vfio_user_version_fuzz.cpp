#include <string_view>

#include "handover/vfio_user/protocol_version.h"

// Any bytes as version JSON: what is accepted is written and read again to the same capabilities.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace handover::vfio_user::protocol;
  const auto capabilities = parse_capabilities({reinterpret_cast<const char*>(data), size});
  if (!capabilities) return 0;
  const auto again = parse_capabilities(to_json(*capabilities));
  if (!again || *again != *capabilities) __builtin_trap();
  return 0;
}
