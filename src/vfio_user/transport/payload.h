#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

namespace handover::vfio_user {

/// Bytes of one message, of a size known beforehand.  Not filled: they are about to arrive, or to be read
/// from a device, and a megabyte of zeros first would cost as much as moving it.
class Payload {
 public:
  Payload() = default;
  explicit Payload(std::size_t size)
      : bytes_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}
  Payload(Payload&& other) noexcept : bytes_(std::move(other.bytes_)), size_(std::exchange(other.size_, 0)) {}
  Payload& operator=(Payload&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  std::byte* data() { return bytes_.get(); }
  const std::byte* data() const { return bytes_.get(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::byte* begin() { return data(); }
  std::byte* end() { return data() + size_; }
  const std::byte* begin() const { return data(); }
  const std::byte* end() const { return data() + size_; }
  /// Drops what is beyond `size`.
  void cut(std::size_t size) { size_ = std::min(size_, size); }

  friend bool operator==(const Payload& left, std::span<const std::byte> right) {
    return std::ranges::equal(left, right);
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_ = 0;
};

}  // namespace handover::vfio_user
