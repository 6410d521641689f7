#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "handover/base/byte_order.h"

namespace handover {

/// Builds one structure in memory, byte order as in BasicByteReader.
template <std::endian Order>
class BasicByteWriter {
 public:
  template <std::unsigned_integral T>
  void integer(T value) {
    auto at = bytes_.size();
    bytes_.resize(at + sizeof value);
    store_int<T, Order>(bytes_.data() + at, value);
  }
  void u8(std::uint8_t value) { integer(value); }
  void u16(std::uint16_t value) { integer(value); }
  void u32(std::uint32_t value) { integer(value); }
  void u64(std::uint64_t value) { integer(value); }
  void bytes(std::span<const std::byte> part) { bytes_.insert(bytes_.end(), part.begin(), part.end()); }
  void text(std::string_view part) { bytes(std::as_bytes(std::span(part))); }
  void zeros(std::size_t count) { bytes_.resize(bytes_.size() + count); }

  std::size_t size() const { return bytes_.size(); }
  std::span<std::byte> view() { return bytes_; }
  std::span<const std::byte> view() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

using BeWriter = BasicByteWriter<std::endian::big>;
using LeWriter = BasicByteWriter<std::endian::little>;
using NativeWriter = BasicByteWriter<std::endian::native>;

}  // namespace handover
