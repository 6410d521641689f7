#include "handover/memory/dirty_bitmap.h"

#include <algorithm>
#include <bit>

#include "handover/base/byte_order.h"

namespace handover {
namespace {

constexpr std::uint64_t kWordBits = 64;

/// `count` ones from bit `first` on; first + count at most 64, count at least 1.
constexpr std::uint64_t ones(std::uint64_t first, std::uint64_t count) {
  return (~std::uint64_t{0} >> (kWordBits - count)) << first;
}

/// Bits [64 * word, 64 * word + 64) of a little-endian bitmap of `bits` bits; what lies beyond is 0.
std::uint64_t foreign_word(std::span<const std::byte> bytes, std::uint64_t bits, std::uint64_t word) {
  const std::uint64_t left = bits - word * kWordBits;
  const std::byte* from = bytes.data() + word * sizeof(std::uint64_t);
  if (left >= kWordBits) return load_le<std::uint64_t>(from);
  std::byte tail[sizeof(std::uint64_t)]{};
  std::copy_n(from, (left + 7) / 8, tail);
  return load_le<std::uint64_t>(tail) & ones(0, left);
}

}  // namespace

DirtyBitmap::DirtyBitmap(std::uint64_t pages)
    : pages_(pages),
      words_(pages / kWordBits + (pages % kWordBits != 0)),
      bits_(std::make_unique<std::atomic<std::uint64_t>[]>(words_)) {
}

// Acquire and release: who takes the bit sees what was written to the page before the bit was set.
std::uint64_t DirtyBitmap::set_bits(std::uint64_t word, std::uint64_t mask) {
  const std::uint64_t before = bits_[word].fetch_or(mask, std::memory_order_acq_rel);
  return static_cast<std::uint64_t>(std::popcount(mask & ~before));
}

std::uint64_t DirtyBitmap::mark_range(std::uint64_t first, std::uint64_t count) {
  if (first >= pages_) return 0;
  count = std::min(count, pages_ - first);
  std::uint64_t fresh = 0;
  while (count > 0) {
    const std::uint64_t bit = first % kWordBits;
    const std::uint64_t here = std::min(count, kWordBits - bit);
    fresh += set_bits(first / kWordBits, ones(bit, here));
    first += here;
    count -= here;
  }
  return fresh;
}

bool DirtyBitmap::test(std::uint64_t page) const {
  if (page >= pages_) return false;
  return (bits_[page / kWordBits].load(std::memory_order_acquire) >> page % kWordBits & 1) != 0;
}

std::uint64_t DirtyBitmap::count() const {
  std::uint64_t total = 0;
  for (std::uint64_t word = 0; word < words_; ++word)
    total += static_cast<std::uint64_t>(std::popcount(bits_[word].load(std::memory_order_relaxed)));
  return total;
}

std::optional<PageRun> DirtyBitmap::take_run(std::uint64_t from, std::uint64_t most) {
  if (from >= pages_ || most == 0) return {};
  std::uint64_t word = from / kWordBits;
  std::uint64_t seen =
      bits_[word].load(std::memory_order_relaxed) & ones(from % kWordBits, kWordBits - from % kWordBits);
  while (seen == 0) {
    if (++word == words_) return {};
    seen = bits_[word].load(std::memory_order_relaxed);
  }
  auto bit = static_cast<std::uint64_t>(std::countr_zero(seen));
  PageRun run{word * kWordBits + bit, 0};
  while (true) {
    const auto ahead = static_cast<std::uint64_t>(std::countr_one(seen >> bit));
    const std::uint64_t length = std::min(ahead, most - run.count);
    if (length == 0) break;
    bits_[word].fetch_and(~ones(bit, length), std::memory_order_acq_rel);
    run.count += length;
    if (bit + length < kWordBits || run.count == most || ++word == words_) break;
    bit = 0;
    seen = bits_[word].load(std::memory_order_relaxed);
  }
  return run;
}

std::uint64_t DirtyBitmap::clear() {
  std::uint64_t total = 0;
  for (std::uint64_t word = 0; word < words_; ++word) {
    if (bits_[word].load(std::memory_order_relaxed) == 0) continue;
    total += static_cast<std::uint64_t>(std::popcount(bits_[word].exchange(0, std::memory_order_acq_rel)));
  }
  return total;
}

std::uint64_t DirtyBitmap::absorb(DirtyBitmap& other) {
  std::uint64_t fresh = 0;
  const std::uint64_t shared = std::min(words_, other.words_);
  for (std::uint64_t word = 0; word < shared; ++word) {
    if (other.bits_[word].load(std::memory_order_relaxed) == 0) continue;
    fresh += set_bits(word, other.bits_[word].exchange(0, std::memory_order_acq_rel));
  }
  return fresh;
}

Result<std::uint64_t> DirtyBitmap::import_le(std::span<const std::byte> bytes, std::uint64_t bits,
                                             std::uint64_t offset, std::uint64_t page_size) {
  if (!std::has_single_bit(page_size))
    return fail(Errc::protocol, "a dirty bitmap with pages of {} bytes: not a power of two", page_size);
  if (bytes.size() < bits / 8 + (bits % 8 != 0))
    return fail(Errc::protocol, "a dirty bitmap of {} bits in only {} bytes", bits, bytes.size());

  const std::uint64_t size = pages_ * kPageSize;
  if (offset >= size || bits == 0) return 0;
  // Foreign pages that begin inside the block.
  bits = std::min(bits, (size - offset - 1) / page_size + 1);
  if (page_size == kPageSize && offset % kPageSize == 0)
    return import_aligned(bytes, bits, offset / kPageSize);

  std::uint64_t fresh = 0;
  for (std::uint64_t word = 0; word * kWordBits < bits; ++word) {
    std::uint64_t left = foreign_word(bytes, bits, word);
    while (left != 0) {
      const auto first = static_cast<std::uint64_t>(std::countr_zero(left));
      const auto count = static_cast<std::uint64_t>(std::countr_one(left >> first));
      left &= ~ones(first, count);
      const std::uint64_t start = offset + (word * kWordBits + first) * page_size;
      // The last of them begins inside the block, so only its end can lie (far) beyond.
      const std::uint64_t last_start = start + (count - 1) * page_size;
      const std::uint64_t end = page_size >= size - last_start ? size : last_start + page_size;
      const std::uint64_t first_page = start / kPageSize;
      fresh += mark_range(first_page, (end - 1) / kPageSize - first_page + 1);
    }
  }
  return fresh;
}

std::uint64_t DirtyBitmap::import_aligned(std::span<const std::byte> bytes, std::uint64_t bits,
                                          std::uint64_t first) {
  const std::uint64_t shift = first % kWordBits;
  std::uint64_t fresh = 0;
  for (std::uint64_t word = 0; word * kWordBits < bits; ++word) {
    const std::uint64_t foreign = foreign_word(bytes, bits, word);
    if (foreign == 0) continue;
    const std::uint64_t to = first / kWordBits + word;
    if (const std::uint64_t low = foreign << shift; low != 0) fresh += set_bits(to, low);
    if (shift == 0) continue;
    if (const std::uint64_t high = foreign >> (kWordBits - shift); high != 0) fresh += set_bits(to + 1, high);
  }
  return fresh;
}

}  // namespace handover
