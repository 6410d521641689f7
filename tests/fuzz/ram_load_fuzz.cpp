// Bodies of `ram` sections from a hostile source, loaded twice: once as they would come from a fast socket,
// once in small pieces.  Both must end the same way and leave the same memory.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "handover/memory/ram_migration.h"
#include "unit/memory/memory_channel.h"

namespace {

using namespace handover;

constexpr std::uint64_t kPages = 16;

struct Outcome {
  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kPages * kPageSize).value();
  std::string error;
  ItemCounters counters;
};

Outcome load(std::span<const std::byte> bytes, std::size_t chunk, bool used_memory) {
  Outcome outcome;
  if (used_memory) std::memset(outcome.memory->blocks()[0]->data(), 0x5a, kPages * kPageSize / 2);
  RamMigration ram(*outcome.memory);
  if (!ram.load_setup()) std::abort();
  test::MemoryChannel channel({bytes.begin(), bytes.end()}, chunk);
  StreamReader in(channel);
  for (int section = 0; section < 8 && outcome.error.empty(); ++section)
    if (auto status = ram.load_live(in, ram.version_id()); !status)
      outcome.error = status.error().to_string();
  outcome.counters = ram.counters();
  ram.cleanup();
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  const bool used_memory = (data[0] & 1) != 0;
  const auto whole = load(bytes, 1u << 20, used_memory);
  const auto pieces = load(bytes, 1 + data[0] * 16u, used_memory);
  // The end of the stream may be found at another byte of a value, so only the kind of end must agree.
  if (whole.error.empty() != pieces.error.empty()) std::abort();
  if (whole.counters.bytes != pieces.counters.bytes) std::abort();
  const auto* left = whole.memory->blocks()[0]->data();
  const auto* right = pieces.memory->blocks()[0]->data();
  if (whole.error.empty() && std::memcmp(left, right, kPages * kPageSize) != 0) std::abort();
  return 0;
}
