#include "vfio_user/client/migration.h"

#include <algorithm>
#include <cerrno>

#include "vfio_user/client/feature_call.h"

namespace handover::vfio_user {

using namespace protocol;
using vfio::DeviceState;
using vfio::StateRead;

Result<DeviceState> ClientMigration::state() {
  HANDOVER_ASSIGN(const auto data, get_feature<DeviceStateData>(connection_, kFeatureDeviceState));
  const auto state = vfio::device_state_from(data.state);
  if (!state) return fail(Errc::protocol, "the server says that its device is in state {}", data.state);
  last_ = *state;
  return *state;
}

Status ClientMigration::set_state(DeviceState to) {
  NativeWriter data;
  encode(data, DeviceStateData{static_cast<std::uint32_t>(to), 0xffffffff});
  auto set = set_feature(connection_, kFeatureDeviceState, data.view());
  if (set) {
    last_ = to;
    return {};
  }
  // Any state on the way is possible now.
  (void)state();
  return std::unexpected(
      std::move(set).error().with_context(fmt::format("cannot bring the device to {}", vfio::to_string(to))));
}

Result<StateRead> ClientMigration::read(std::span<std::byte> buffer) {
  if (buffer.empty()) return fail(Errc::invalid_argument, "no room for device state");
  const auto size = static_cast<std::uint32_t>(std::min(buffer.size(), peer_.max_transfer));
  MessageBuilder request;
  request.add(MigDataHead{static_cast<std::uint32_t>(wire_size<MigDataHead>()) + size, size});
  const Connection::Data into{.out = {}, .in = {wire_size<MigDataHead>(), buffer.first(size)}};
  HANDOVER_ASSIGN(const auto reply, connection_.call(Command::mig_data_read, std::move(request), into));
  // Some servers pad the reply to what was asked for: only `size` counts.
  HANDOVER_ASSIGN(const auto data, MigData::decode(reply.payload));
  const auto received = reply.landed + data.data.size();
  if (data.head.size > size || data.head.size > received)
    return fail(Errc::protocol, "{} bytes of device state asked for, {} announced, {} received", size,
                data.head.size, received);
  // What is longer than asked for did not land.
  if (!data.data.empty()) std::ranges::copy(data.data.first(data.head.size), buffer.begin());
  const auto pause = last_ == DeviceState::stop_copy ? StateRead::Kind::end : StateRead::Kind::nothing_now;
  return StateRead{data.head.size < size ? pause : StateRead::Kind::data, data.head.size};
}

Status ClientMigration::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto part = data.first(std::min(data.size(), peer_.max_transfer));
    const auto size = static_cast<std::uint32_t>(part.size());
    MessageBuilder request;
    request.add(MigDataHead{static_cast<std::uint32_t>(wire_size<MigDataHead>()) + size, size});
    HANDOVER_TRY(connection_.call(Command::mig_data_write, std::move(request), {.out = part, .in = {}}));
    data = data.subspan(part.size());
  }
  return {};
}

Result<std::optional<vfio::PrecopyInfo>> ClientMigration::precopy_info() {
  if (!probed_.precopy_info) return std::nullopt;
  const auto info = get_feature<PrecopyInfoData>(connection_, kFeatureMigPrecopyInfo);
  if (info)
    return vfio::PrecopyInfo{info->initial_bytes, info->dirty_bytes, (info->flags & kPrecopyReinit) != 0};
  if (info.error().sys_errno() == ENODATA) return std::nullopt;
  return std::unexpected(info.error());
}

Result<std::optional<std::uint64_t>> ClientMigration::stop_copy_size() {
  if (!probed_.data_size) return std::nullopt;
  const auto size = get_feature<U64>(connection_, kFeatureMigDataSize);
  if (size) return size->value;
  if (size.error().sys_errno() == ENODATA) return std::nullopt;
  return std::unexpected(size.error());
}

}  // namespace handover::vfio_user
