#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "handover/base/byte_order.h"
#include "handover/base/result.h"

namespace handover {

/// Decodes one foreign structure that is completely in memory; cannot run past its end.
///
/// Order is the byte order of its integers: big for QEMU's stream, native for vfio-user messages.
template <std::endian Order>
class BasicByteReader {
 public:
  explicit BasicByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t position() const { return position_; }
  std::size_t remaining() const { return bytes_.size() - position_; }

  template <std::unsigned_integral T>
  Result<T> integer() {
    HANDOVER_TRY(need(sizeof(T)));
    T value = load_int<T, Order>(bytes_.data() + position_);
    position_ += sizeof(T);
    return value;
  }
  Result<std::uint8_t> u8() { return integer<std::uint8_t>(); }
  Result<std::uint16_t> u16() { return integer<std::uint16_t>(); }
  Result<std::uint32_t> u32() { return integer<std::uint32_t>(); }
  Result<std::uint64_t> u64() { return integer<std::uint64_t>(); }

  /// A view of the next `count` bytes, valid as long as the underlying buffer.
  Result<std::span<const std::byte>> bytes(std::size_t count) {
    HANDOVER_TRY(need(count));
    auto part = bytes_.subspan(position_, count);
    position_ += count;
    return part;
  }
  std::span<const std::byte> rest() { return bytes_.subspan(std::exchange(position_, bytes_.size())); }

  /// One length byte and that many characters.
  Result<std::string> str8() {
    HANDOVER_ASSIGN(auto length, u8());
    HANDOVER_ASSIGN(auto text, bytes(length));
    return std::string(reinterpret_cast<const char*>(text.data()), text.size());
  }

  Status skip(std::size_t count) {
    HANDOVER_TRY(need(count));
    position_ += count;
    return {};
  }

 private:
  Status need(std::size_t count) const {
    if (remaining() < count)
      return fail(Errc::protocol, "{} bytes wanted at offset {}, only {} left", count, position_,
                  remaining());
    return {};
  }

  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
};

using BeReader = BasicByteReader<std::endian::big>;
using LeReader = BasicByteReader<std::endian::little>;
using NativeReader = BasicByteReader<std::endian::native>;

}  // namespace handover
