// The source's reader of the return path over any bytes; what it accepts, it writes back byte for byte.
#include <cstdint>
#include <cstdlib>

#include "handover/stream/return_path.h"
#include "support/memory_channel.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace handover;
  const auto bytes = std::as_bytes(std::span(data, size));
  test::MemoryChannel channel({bytes.begin(), bytes.end()}, 7);
  stream::ReturnPathReader reader(channel);
  test::MemoryChannel again;
  stream::ReturnPathWriter writer(again);
  for (;;) {
    auto message = reader.next();
    if (!message) break;
    if (!writer.send(*message)) std::abort();
  }
  if (again.output.size() > size || !std::equal(again.output.begin(), again.output.end(), bytes.begin()))
    std::abort();
  return 0;
}
