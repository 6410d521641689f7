#include "vmm/synthetic/content.h"

#include <algorithm>
#include <cstring>

#include "handover/memory/guest_race.h"

namespace handover::vmm::synthetic {
namespace {

constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15;
constexpr std::uint64_t kFactor = 0xd6e8feb86659fd93;

// One multiplication: the key is mixed well already, and neighbours only have to differ.
constexpr std::uint64_t varied_word(std::uint64_t state) {
  state = (state ^ (state >> 32)) * kFactor;
  return state ^ (state >> 29);
}

// Words are made from an ascending state; a step of 0 makes a plain content of the same loop.
template <class Each>
void for_words(const Content& content, std::uint64_t first, std::size_t count, Each each) {
  switch (content.kind) {
    case Content::Kind::varied: {
      std::uint64_t state = content.key + first * kStep;
      for (std::size_t i = 0; i < count; ++i, state += kStep)
        if (!each(i, varied_word(state))) return;
      return;
    }
    case Content::Kind::plain:
    case Content::Kind::blank: {
      const std::uint64_t word = content.word(first);
      for (std::size_t i = 0; i < count; ++i)
        if (!each(i, word)) return;
      return;
    }
  }
}

// Bytes of the word that contains byte `at` of the content, from there to the word's end or `most`.
std::size_t part_of_word(const Content& content, std::uint64_t at, std::size_t most, std::byte* to) {
  const std::uint64_t word = content.word(at / 8);
  const std::size_t begin = at % 8;
  const std::size_t count = std::min(8 - begin, most);
  std::memcpy(to, reinterpret_cast<const std::byte*>(&word) + begin, count);
  return count;
}

std::uint64_t load_part(const std::byte* from, std::size_t count) {
  std::uint64_t value = 0;
  std::memcpy(&value, from, count);
  return value;
}

}  // namespace

std::uint64_t Content::word(std::uint64_t index) const {
  switch (kind) {
    case Kind::varied:
      return varied_word(key + index * kStep);
    case Kind::plain:
      return key;
    case Kind::blank:
      return 0;
  }
  return 0;
}

void generate(const Content& content, std::uint64_t skip, std::span<std::byte> to) {
  const GuestRace race;
  while (!to.empty() && (skip % 8 != 0 || to.size() < 8)) {
    const std::size_t count = part_of_word(content, skip, to.size(), to.data());
    skip += count;
    to = to.subspan(count);
  }
  const std::size_t words = to.size() / 8;
  for_words(content, skip / 8, words, [to](std::size_t i, std::uint64_t word) {
    std::memcpy(to.data() + 8 * i, &word, 8);
    return true;
  });
  if (to.size() % 8 != 0) part_of_word(content, skip + 8 * words, to.size() % 8, to.data() + 8 * words);
}

std::optional<Difference> compare(const Content& content, std::uint64_t skip,
                                  std::span<const std::byte> bytes) {
  const GuestRace race;
  std::optional<Difference> found;
  std::uint64_t done = 0;
  auto compare_part = [&](std::size_t most) {
    std::byte expected[8];
    const std::size_t count = part_of_word(content, skip + done, most, expected);
    const std::uint64_t want = load_part(expected, count);
    const std::uint64_t got = load_part(bytes.data() + done, count);
    if (want != got && !found) found = Difference{done, want, got};
    done += count;
  };
  while (done < bytes.size() && ((skip + done) % 8 != 0 || bytes.size() - done < 8))
    compare_part(bytes.size() - done);
  if (found) return found;
  const std::size_t words = (bytes.size() - done) / 8;
  for_words(content, (skip + done) / 8, words, [&](std::size_t i, std::uint64_t word) {
    const std::uint64_t got = load_part(bytes.data() + done + 8 * i, 8);
    if (got == word) return true;
    found = Difference{done + 8 * i, word, got};
    return false;
  });
  if (found) return found;
  done += 8 * words;
  if (done < bytes.size()) compare_part(bytes.size() - done);
  return found;
}

}  // namespace handover::vmm::synthetic
