#include "vfio_user/dma/iova_log.h"

#include <algorithm>
#include <bit>
#include <mutex>

#include "handover/base/byte_order.h"

namespace handover::vfio_user {
namespace {

void set_bits(std::span<std::byte> bitmap, std::uint64_t first, std::uint64_t last) {
  for (auto bit = first; bit <= last; ++bit)
    bitmap[bit / 8] |= static_cast<std::byte>(1u << (bit % 8));
}

// Bits first..last (inclusive, below 64) of a word.
std::uint64_t word_mask(std::uint64_t first, std::uint64_t last) {
  return (~std::uint64_t{0} << first) & (~std::uint64_t{0} >> (63 - last));
}

}  // namespace

IovaLog::Chunk* IovaLog::find_or_make(std::uint64_t key) {
  {
    std::shared_lock lock(mutex_);
    if (const auto found = chunks_.find(key); found != chunks_.end()) return found->second.get();
  }
  std::unique_lock lock(mutex_);
  if (const auto found = chunks_.find(key); found != chunks_.end()) return found->second.get();
  if (chunks_.size() >= kMaxChunks) {
    saturated_ = true;
    return nullptr;
  }
  return chunks_.emplace(key, std::make_unique<Chunk>()).first->second.get();
}

void IovaLog::mark(std::uint64_t start, std::uint64_t size) {
  if (size == 0) return;
  const auto last_page = (start + (size - 1)) / kLogPage;
  for (auto page = start / kLogPage; page <= last_page && !saturated_;) {
    const auto key = page / kChunkPages;
    const auto chunk_last = std::min(last_page, key * kChunkPages + kChunkPages - 1);
    if (!find_or_make(key)) return;
    // Looked up again under the lock: a clear() may have come between.
    std::shared_lock lock(mutex_);
    const auto found = chunks_.find(key);
    if (found == chunks_.end()) continue;
    for (; page <= chunk_last;) {
      const auto word_last = std::min(chunk_last, page | 63);
      found->second->words[page % kChunkPages / 64].fetch_or(word_mask(page % 64, word_last % 64),
                                                             std::memory_order_release);
      page = word_last + 1;
    }
  }
}

void IovaLog::take(std::uint64_t start, std::uint64_t size, std::uint64_t page_size,
                   std::span<std::byte> bitmap) {
  if (size == 0) return;
  const auto last = start + (size - 1);
  if (saturated_) {
    set_bits(bitmap, 0, (size - 1) / page_size);
    return;
  }
  const auto first_page = start / kLogPage;
  const auto last_page = last / kLogPage;
  const bool first_whole = start % kLogPage == 0;
  const bool last_whole = last % kLogPage == kLogPage - 1;
  // Log words and words of the bitmap line up: the usual report of RAM.
  const bool aligned = page_size == kLogPage && start % (64 * kLogPage) == 0;

  std::shared_lock lock(mutex_);
  for (auto chunk = chunks_.lower_bound(first_page / kChunkPages);
       chunk != chunks_.end() && chunk->first <= last_page / kChunkPages; ++chunk) {
    const auto base = chunk->first * kChunkPages;
    const auto from = std::max(base, first_page);
    const auto to = std::min(base + kChunkPages - 1, last_page);
    for (auto word_page = from & ~std::uint64_t{63}; word_page <= to; word_page += 64) {
      auto& word = chunk->second->words[(word_page - base) / 64];
      if (word.load(std::memory_order_relaxed) == 0) continue;
      const auto wanted =
          word_mask(std::max(from, word_page) - word_page, std::min(to, word_page + 63) - word_page);
      auto whole = wanted;
      if (!first_whole && first_page >= word_page) whole &= ~(std::uint64_t{1} << (first_page - word_page));
      if (!last_whole && last_page <= word_page + 63) whole &= ~(std::uint64_t{1} << (last_page - word_page));
      auto bits = word.fetch_and(~whole, std::memory_order_acq_rel) & wanted;
      if (aligned) {
        auto* to_word = bitmap.data() + (word_page - first_page) / 8;
        store_le<std::uint64_t>(to_word, load_le<std::uint64_t>(to_word) | bits);
        continue;
      }
      for (; bits != 0; bits &= bits - 1) {
        const auto address = (word_page + static_cast<unsigned>(std::countr_zero(bits))) * kLogPage;
        set_bits(bitmap, (std::max(address, start) - start) / page_size,
                 (std::min(address + (kLogPage - 1), last) - start) / page_size);
      }
    }
  }
}

void IovaLog::absorb(std::uint64_t start, std::uint64_t size, std::uint64_t page_size,
                     std::span<const std::byte> bitmap) {
  if (size == 0) return;
  const auto pages = (size - 1) / page_size + 1;
  for (std::uint64_t i = 0; i < pages && i / 8 < bitmap.size();) {
    if (i % 8 == 0 && bitmap[i / 8] == std::byte{0}) {
      i += 8;
      continue;
    }
    const auto bit = i++;
    if ((bitmap[bit / 8] & static_cast<std::byte>(1u << (bit % 8))) == std::byte{0}) continue;
    mark(start + bit * page_size, std::min(page_size, size - bit * page_size));
  }
}

bool IovaLog::touched(std::uint64_t start, std::uint64_t size) const {
  if (size == 0) return false;
  std::shared_lock lock(mutex_);
  const auto chunk = chunks_.lower_bound(start / kChunkBytes);
  return saturated_ || (chunk != chunks_.end() && chunk->first <= (start + (size - 1)) / kChunkBytes);
}

void IovaLog::forget(std::uint64_t first, std::uint64_t last) {
  const auto first_page = first / kLogPage + (first % kLogPage == 0 ? 0 : 1);
  const auto end_page = last / kLogPage + (last % kLogPage == kLogPage - 1 ? 1 : 0);
  if (first_page >= end_page) return;
  std::unique_lock lock(mutex_);
  for (auto chunk = chunks_.lower_bound(first_page / kChunkPages);
       chunk != chunks_.end() && chunk->first <= (end_page - 1) / kChunkPages;) {
    const auto base = chunk->first * kChunkPages;
    const auto from = std::max(base, first_page);
    const auto to = std::min(base + kChunkPages, end_page) - 1;
    if (to - from + 1 == kChunkPages) {
      chunk = chunks_.erase(chunk);
      continue;
    }
    for (auto page = from; page <= to;) {
      const auto word_last = std::min(to, page | 63);
      chunk->second->words[(page - base) / 64].fetch_and(~word_mask(page % 64, word_last % 64),
                                                         std::memory_order_relaxed);
      page = word_last + 1;
    }
    ++chunk;
  }
}

void IovaLog::clear() {
  std::unique_lock lock(mutex_);
  chunks_.clear();
  saturated_ = false;
}

}  // namespace handover::vfio_user
