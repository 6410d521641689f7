#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "handover/base/result.h"

namespace handover {

/// Owns one mmap()ed range and unmaps it.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  /// Maps `size` bytes of `fd` from `offset`, shared; `prot` as in mmap().  Offset must be page aligned.
  static Result<Mapping> shared(int fd, std::uint64_t offset, std::uint64_t size, int prot);
  /// Private zeroed memory.
  static Result<Mapping> anonymous(std::uint64_t size);

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> span() const { return {data_, size_}; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  Mapping(std::byte* data, std::size_t size) : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace handover
