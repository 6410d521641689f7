#include "vfio_user/client/feature_call.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

constexpr auto kHead = static_cast<std::uint32_t>(wire_size<FeatureHead>());

}  // namespace

Result<bool> probe_feature(Connection& connection, std::uint32_t feature, std::uint32_t methods) {
  MessageBuilder request;
  request.add(FeatureHead{kHead, feature | methods | kFeatureProbe});
  auto reply = connection.call(Command::device_feature, std::move(request));
  if (!reply && connection.lost()) return std::unexpected(std::move(reply).error());
  return reply.has_value();
}

Result<std::vector<std::byte>> get_feature_bytes(Connection& connection, std::uint32_t feature,
                                                 std::size_t size) {
  MessageBuilder request;
  request.add(FeatureHead{static_cast<std::uint32_t>(kHead + size), feature | kFeatureGet});
  HANDOVER_ASSIGN(const auto reply, connection.call(Command::device_feature, std::move(request)));
  HANDOVER_ASSIGN(const auto answer, Feature::decode(reply.payload));
  if (answer.data.size() < size)
    return fail(Errc::protocol, "the answer to feature {} has {} bytes instead of {}", feature,
                answer.data.size(), size);
  return std::vector(answer.data.begin(), answer.data.begin() + static_cast<std::ptrdiff_t>(size));
}

Status set_feature(Connection& connection, std::uint32_t feature, std::span<const std::byte> data) {
  MessageBuilder request;
  request.add(FeatureHead{static_cast<std::uint32_t>(kHead + data.size()), feature | kFeatureSet}).data(data);
  HANDOVER_TRY(connection.call(Command::device_feature, std::move(request)));
  return {};
}

}  // namespace handover::vfio_user
