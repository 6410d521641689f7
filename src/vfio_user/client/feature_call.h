#pragma once

#include <cstdint>

#include "vfio_user/client/connection.h"

namespace handover::vfio_user {

/// DEVICE_FEATURE calls, with the checks of their replies.

/// True if the server has the feature with these methods (kFeatureGet, kFeatureSet).  Fails only if the
/// connection is lost: servers answer what they lack with all kinds of errors.
Result<bool> probe_feature(Connection& connection, std::uint32_t feature, std::uint32_t methods);

/// GET of a feature without input whose answer has `size` bytes.
Result<std::vector<std::byte>> get_feature_bytes(Connection& connection, std::uint32_t feature,
                                                 std::size_t size);
template <protocol::FixedPart T>
Result<T> get_feature(Connection& connection, std::uint32_t feature) {
  HANDOVER_ASSIGN(const auto bytes, get_feature_bytes(connection, feature, protocol::wire_size<T>()));
  return protocol::decode<T>(bytes);
}

Status set_feature(Connection& connection, std::uint32_t feature, std::span<const std::byte> data);

}  // namespace handover::vfio_user
