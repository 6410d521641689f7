#include "memory/mapped_ram_bitmap.h"

#include <algorithm>
#include <atomic>
#include <bit>

#include "handover/base/byte_order.h"
#include "memory/mapped_ram_layout.h"

namespace handover {

MappedRamBitmap::MappedRamBitmap(std::uint64_t pages) : pages_(pages), words_((pages + 63) / 64) {
}

Result<MappedRamBitmap> MappedRamBitmap::decode(std::span<const std::byte> bytes, std::uint64_t pages) {
  if (bytes.size() != mapped_ram::bitmap_bytes(pages))
    return fail(Errc::protocol, "a bitmap of {} bytes for {} pages", bytes.size(), pages);
  MappedRamBitmap bitmap(pages);
  for (std::size_t i = 0; i < bitmap.words_.size(); ++i)
    bitmap.words_[i] = load_le<std::uint64_t>(bytes.data() + i * 8);
  const auto last = pages % 64;
  if (last != 0 && (bitmap.words_.back() >> last) != 0)
    return fail(Errc::protocol, "a page behind the last of {} is marked", pages);
  return bitmap;
}

void MappedRamBitmap::mark(PageRun run) {
  for (std::uint64_t page = run.first; page < run.first + run.count;) {
    const auto bit = page % 64;
    const auto count = std::min(64 - bit, run.first + run.count - page);
    const std::uint64_t mask = (count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1) << bit;
    std::atomic_ref(words_[page / 64]).fetch_or(mask, std::memory_order_relaxed);
    page += count;
  }
}

bool MappedRamBitmap::clear(std::uint64_t page) {
  const std::uint64_t mask = std::uint64_t{1} << (page % 64);
  return (std::atomic_ref(words_[page / 64]).fetch_and(~mask, std::memory_order_relaxed) & mask) != 0;
}

std::vector<std::byte> MappedRamBitmap::encode() const {
  std::vector<std::byte> bytes(words_.size() * 8);
  for (std::size_t i = 0; i < words_.size(); ++i)
    store_le(bytes.data() + i * 8, words_[i]);
  return bytes;
}

std::uint64_t MappedRamBitmap::find(std::uint64_t from, bool marked) const {
  for (std::uint64_t page = from; page < pages_; page = (page / 64 + 1) * 64) {
    const std::uint64_t word = (marked ? words_[page / 64] : ~words_[page / 64]) >> (page % 64);
    if (word != 0)
      return std::min<std::uint64_t>(page + static_cast<unsigned>(std::countr_zero(word)), pages_);
  }
  return pages_;
}

PageRun MappedRamBitmap::next_run(std::uint64_t from) const {
  const auto first = find(from, true);
  return {first, find(first, false) - first};
}

}  // namespace handover
