#pragma once

#include <cstddef>
#include <span>
#include <tuple>

#include "handover/base/byte_reader.h"
#include "handover/base/byte_writer.h"
#include "handover/base/result.h"

/// How a structure of fixed size says once, in fields(), what it is on the wire: its integers in order,
/// packed, in the byte order of the host (vfio-user specification 0.9.2).
namespace handover::vfio_user::protocol {

template <class T>
concept FixedPart = requires { T::fields(); };

template <FixedPart T>
constexpr std::size_t wire_size() {
  return std::apply([](auto... member) { return (sizeof(std::declval<T>().*member) + ...); }, T::fields());
}

template <FixedPart T>
void encode(NativeWriter& out, const T& part) {
  std::apply([&](auto... member) { (out.integer(part.*member), ...); }, T::fields());
}

/// Fails with Errc::protocol if the bytes end inside the structure.
template <FixedPart T>
Result<T> decode(NativeReader& in) {
  HANDOVER_ASSIGN(auto bytes, in.bytes(wire_size<T>()));
  T part;
  std::size_t at = 0;
  const auto take = [&](auto& field) {
    using Field = std::remove_reference_t<decltype(field)>;
    field = load_int<Field, std::endian::native>(bytes.data() + at);
    at += sizeof field;
  };
  std::apply([&](auto... member) { (take(part.*member), ...); }, T::fields());
  return part;
}

template <FixedPart T>
Result<T> decode(std::span<const std::byte> payload) {
  NativeReader in(payload);
  return decode<T>(in);
}

/// A fixed part and the bytes after it; `data` is a view of the payload that it was decoded from.
template <FixedPart T>
struct WithData {
  T head;
  std::span<const std::byte> data;

  static Result<WithData> decode(std::span<const std::byte> payload) {
    NativeReader in(payload);
    HANDOVER_ASSIGN(auto head, protocol::decode<T>(in));
    return WithData{head, in.rest()};
  }
  void encode(NativeWriter& out) const {
    protocol::encode(out, head);
    out.bytes(data);
  }
};

}  // namespace handover::vfio_user::protocol
