#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace handover::vmm::synthetic {

/// Spreads every bit of the input over the whole result (the finaliser of splitmix64).
constexpr std::uint64_t mix(std::uint64_t value) {
  value ^= value >> 30;
  value *= 0xbf58476d1ce4e5b9;
  value ^= value >> 27;
  value *= 0x94d049bb133111eb;
  return value ^ (value >> 31);
}
/// Of several numbers, in this order.
template <class... More>
constexpr std::uint64_t mix(std::uint64_t first, std::uint64_t second, More... more) {
  return mix(mix(first) + 0x9e3779b97f4a7c15 + second, std::uint64_t{more}...);
}

/// Bytes that a number stands for: what the guest writes, and what it expects to find.
///
/// A varied content has a different 64-bit word at every place, a plain one the same word everywhere, a blank
/// one zeros.
struct Content {
  enum class Kind { blank, varied, plain };
  Kind kind = Kind::blank;
  std::uint64_t key = 0;

  /// The word at byte offset 8 * index.
  std::uint64_t word(std::uint64_t index) const;
};

/// Writes the content's bytes from offset `skip` on.  Any alignment; several GB/s where it is 8.
/// The target may be guest memory, which others may be reading.
void generate(const Content& content, std::uint64_t skip, std::span<std::byte> to);

struct Difference {
  std::uint64_t offset = 0;  ///< in the bytes compared, of the word that differs
  std::uint64_t expected = 0;
  std::uint64_t got = 0;
};
/// The first place where the bytes are not the content's from offset `skip` on.
std::optional<Difference> compare(const Content& content, std::uint64_t skip,
                                  std::span<const std::byte> bytes);

}  // namespace handover::vmm::synthetic
