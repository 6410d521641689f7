// A stream whose bytes were changed or cut at random is either still a stream or refused in words: never a
// crash, never a hang, never an allocation that the bytes themselves do not pay for.

#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "handover/stream/inspector.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"
#include "unit/memory/random_seed.h"

namespace {

/// The largest single allocation since it was last set to zero.
std::atomic<std::size_t> g_largest{0};

void* counted(std::size_t size) {
  std::size_t before = g_largest.load(std::memory_order_relaxed);
  while (size > before && !g_largest.compare_exchange_weak(before, size)) {
  }
  if (void* at = std::malloc(size == 0 ? 1 : size)) return at;
  std::abort();
}

}  // namespace

void* operator new(std::size_t size) {
  return counted(size);
}
void* operator new[](std::size_t size) {
  return counted(size);
}
void operator delete(void* at) noexcept {
  std::free(at);
}
void operator delete[](void* at) noexcept {
  std::free(at);
}
void operator delete(void* at, std::size_t) noexcept {
  std::free(at);
}
void operator delete[](void* at, std::size_t) noexcept {
  std::free(at);
}

namespace handover::stream {
namespace {

constexpr int kCopies = 10000;
/// A file of 22 KiB needs the reader's buffer, one piece of a vmdescription, and some tables.
constexpr std::size_t kLargestAllocation = 2 * MiB;

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::string operator()(std::string bytes) {
    const auto changes = pick(4);
    for (std::uint64_t i = 0; i < changes; ++i)
      change(bytes);
    if (changes == 0 || pick(4) == 0) bytes.resize(pick(bytes.size() + 1));
    return bytes;
  }
  bool coin() { return pick(2) == 0; }

 private:
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  /// Half of the changes go where the structure is: the first and the last bytes.
  std::size_t place(const std::string& bytes) {
    if (coin()) return pick(bytes.size());
    return coin() ? pick(std::min<std::size_t>(bytes.size(), 200)) : bytes.size() - 1 - pick(1100);
  }

  void change(std::string& bytes) {
    const std::size_t at = place(bytes);
    switch (pick(4)) {
      case 0:
        bytes[at] = static_cast<char>(pick(256));
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << pick(8)));
        break;
      case 2: {
        constexpr char kHard[] = {'\0', '\xff', '\x7f', '\x7e', '\x06', '\x10'};
        for (std::size_t i = at; i < std::min(bytes.size(), at + 1 + pick(8)); ++i)
          bytes[i] = kHard[pick(6)];
        break;
      }
      default:
        bytes.erase(at, 1 + pick(9));
        break;
    }
  }

  std::mt19937_64 random_;
};

TEST(InspectorMutation, DamagedStreamsAreRefusedInWordsOrStillStreams) {
  const std::string whole = test::read_whole_file(HANDOVER_TEST_DATA "/qemu-streams/none-512k.mig");
  ASSERT_EQ(whole.size(), 22748u);
  test::TempFolder folder;
  Address address;
  address.kind = Address::Kind::file;
  address.path = folder / "mutated.mig";
  Mutator mutate(test::random_seed());
  int refused = 0;
  for (int copy = 0; copy < kCopies; ++copy) {
    const std::string bytes = mutate(whole);
    const InspectOptions options{.hash = mutate.coin(), .max_hashed_ram = MiB};
    Result<StreamFacts> facts = StreamFacts{};
    if (mutate.coin()) {
      test::write_whole_file(address.path, bytes);
      g_largest = 0;
      facts = inspect_file(address, options);
    } else {
      test::MemoryChannel channel(test::to_bytes(bytes));
      g_largest = 0;
      facts = inspect_channel(channel, options);
    }
    ASSERT_LE(g_largest.load(), kLargestAllocation) << "copy " << copy;
    if (facts) continue;
    ++refused;
    const std::string message = facts.error().to_string();
    const bool says_where = message.find("offset") != std::string::npos;
    const bool is_no_stream = message.find("no migration stream") != std::string::npos ||
                              message.find("stream version") != std::string::npos;
    ASSERT_TRUE(says_where || is_no_stream) << "copy " << copy << ": " << message;
  }
  // Most changes hit page contents, which are anything; but not nearly all.
  EXPECT_GT(refused, kCopies / 4);
}

}  // namespace
}  // namespace handover::stream
