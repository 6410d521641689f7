#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstring>

namespace handover {

template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 1)
    return value;
  else if constexpr (sizeof(T) == 2)
    return __builtin_bswap16(value);
  else if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(value);
  else
    return __builtin_bswap64(value);
}

/// Reads an unaligned integer stored in the given byte order.
template <std::unsigned_integral T, std::endian Order>
T load_int(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return Order == std::endian::native ? value : byte_swap(value);
}

template <std::unsigned_integral T, std::endian Order>
void store_int(std::byte* to, T value) {
  if constexpr (Order != std::endian::native) value = byte_swap(value);
  std::memcpy(to, &value, sizeof value);
}

template <std::unsigned_integral T>
T load_be(const std::byte* from) {
  return load_int<T, std::endian::big>(from);
}
template <std::unsigned_integral T>
void store_be(std::byte* to, T value) {
  store_int<T, std::endian::big>(to, value);
}
template <std::unsigned_integral T>
T load_le(const std::byte* from) {
  return load_int<T, std::endian::little>(from);
}
template <std::unsigned_integral T>
void store_le(std::byte* to, T value) {
  store_int<T, std::endian::little>(to, value);
}

}  // namespace handover
