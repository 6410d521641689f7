#pragma once

#include <bitset>
#include <cstdint>
#include <unordered_map>

namespace handover::stream {

/// Which pages of a block have been seen.  Takes memory for what is added, not for what a block claims to be.
class PageSet {
 public:
  void add(std::uint64_t page) {
    auto bit = chunks_[page / kChunk][page % kChunk];
    if (!bit) ++count_;
    bit = true;
  }
  std::uint64_t count() const { return count_; }

 private:
  static constexpr std::uint64_t kChunk = 4096;
  std::unordered_map<std::uint64_t, std::bitset<kChunk>> chunks_;
  std::uint64_t count_ = 0;
};

}  // namespace handover::stream
