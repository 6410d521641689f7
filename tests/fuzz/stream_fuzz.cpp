// The inspector over any bytes, as a file (with the search for the vmdescription at its end) and as a
// channel.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "handover/stream/inspector.h"
#include "support/memory_channel.h"

namespace {

using namespace handover;

/// A file in memory that inspect_file() can open by name.
std::string file_with(std::span<const std::byte> bytes) {
  static const int fd = ::memfd_create("stream_fuzz", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, 0) < 0) std::abort();
  if (::pwrite(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
  return "/proc/self/fd/" + std::to_string(fd);
}

void check(const Result<stream::StreamFacts>& facts, std::size_t size) {
  if (!facts) {
    if (facts.error().to_string().empty()) std::abort();
    return;
  }
  // What is accepted was walked to its end, and can be printed.
  if (facts->length > size || stream::to_json(*facts).dump().empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size));
  const stream::InspectOptions options{.hash = (data[size - 1] & 1) != 0, .max_hashed_ram = MiB};
  Address address;
  address.kind = Address::Kind::file;
  address.path = file_with(bytes);
  check(stream::inspect_file(address, options), size);
  test::MemoryChannel channel({bytes.begin(), bytes.end()}, 100);
  check(stream::inspect_channel(channel, options), size);
  return 0;
}
