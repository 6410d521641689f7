#include "vfio_user/client/migration.h"

#include <algorithm>
#include <cerrno>

#include "vfio_user/client/feature_call.h"

namespace handover::vfio_user {

using namespace protocol;
using vfio::DeviceState;
using vfio::StateRead;

namespace {

MessageBuilder read_request(std::uint32_t size) {
  MessageBuilder request;
  request.add(MigDataHead{static_cast<std::uint32_t>(wire_size<MigDataHead>()) + size, size});
  return request;
}

}  // namespace

Result<DeviceState> ClientMigration::state() {
  HANDOVER_ASSIGN(const auto data, get_feature<DeviceStateData>(connection_, kFeatureDeviceState));
  const auto state = vfio::device_state_from(data.state);
  if (!state) return fail(Errc::protocol, "the server says that its device is in state {}", data.state);
  last_ = *state;
  return *state;
}

Status ClientMigration::set_state(DeviceState to) {
  HANDOVER_TRY(finish_writing());
  forget_session();
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

void ClientMigration::forget_session() {
  for (auto* ticket : {&reading_, &writing_})
    if (const auto dropped = std::exchange(*ticket, std::nullopt)) connection_.forget(*dropped);
  chunk_.reset();
}

Result<StateRead> ClientMigration::read(std::span<std::byte> buffer) {
  if (buffer.empty()) return fail(Errc::invalid_argument, "no room for device state");
  if (reading_ || chunk_) return take_chunk(buffer);
  const auto size = static_cast<std::uint32_t>(std::min(buffer.size(), peer_.max_transfer));
  const Connection::Data into{.out = {}, .in = {wire_size<MigDataHead>(), buffer.first(size)}};
  HANDOVER_ASSIGN(const auto read,
                  received(connection_.call(Command::mig_data_read, read_request(size), into), size, buffer));
  if (read.kind == StateRead::Kind::data) HANDOVER_TRY(read_ahead(size));
  return read;
}

// What a reply says that has come, with its data in `landed`.
Result<StateRead> ClientMigration::received(const Result<Message>& reply, std::uint32_t asked,
                                            std::span<std::byte> landed) const {
  if (!reply) return std::unexpected(reply.error());
  // Some servers pad the reply to what was asked for: only `size` counts.
  HANDOVER_ASSIGN(const auto data, MigData::decode(reply->payload));
  const auto there = reply->landed + data.data.size();
  if (data.head.size > asked || data.head.size > there)
    return fail(Errc::protocol, "{} bytes of device state asked for, {} announced, {} received", asked,
                data.head.size, there);
  // What is longer than asked for did not land.
  if (!data.data.empty()) std::ranges::copy(data.data.first(data.head.size), landed.begin());
  const auto pause = last_ == DeviceState::stop_copy ? StateRead::Kind::end : StateRead::Kind::nothing_now;
  return StateRead{data.head.size < asked ? pause : StateRead::Kind::data, data.head.size};
}

Status ClientMigration::read_ahead(std::uint32_t size) {
  if (last_ != DeviceState::stop_copy || !peer_.handover || !connection_.may_run_ahead()) return {};
  auto room = spare_.size() == size ? std::move(spare_) : Payload(size);
  HANDOVER_ASSIGN(reading_, connection_.begin(Command::mig_data_read, read_request(size), {},
                                              wire_size<MigDataHead>(), std::move(room)));
  return {};
}

Result<StateRead> ClientMigration::take_chunk(std::span<std::byte> buffer) {
  if (!chunk_) {
    const auto ticket = *std::exchange(reading_, std::nullopt);
    const auto asked = static_cast<std::uint32_t>(ticket->room.size());
    HANDOVER_ASSIGN(const auto read, received(connection_.finish(ticket), asked, ticket->room));
    chunk_ = Chunk{ticket, read};
    // Before the copy, so that the device works meanwhile.
    if (read.kind == StateRead::Kind::data) HANDOVER_TRY(read_ahead(asked));
  }
  auto& [ticket, read, taken] = *chunk_;
  const auto part = std::min(buffer.size(), read.bytes - taken);
  std::ranges::copy(std::span(ticket->room).subspan(taken, part), buffer.begin());
  taken += part;
  if (taken < read.bytes) return StateRead{StateRead::Kind::data, part};
  const auto kind = read.kind;
  spare_ = std::move(ticket->room);
  chunk_.reset();
  return StateRead{kind, part};
}

Status ClientMigration::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto part = data.first(std::min(data.size(), peer_.max_transfer));
    HANDOVER_TRY(write_part(part));
    data = data.subspan(part.size());
  }
  return {};
}

Status ClientMigration::write_part(std::span<const std::byte> part) {
  const auto size = static_cast<std::uint32_t>(part.size());
  MessageBuilder request;
  request.add(MigDataHead{static_cast<std::uint32_t>(wire_size<MigDataHead>()) + size, size});
  HANDOVER_TRY(finish_writing());
  if (!peer_.handover || !connection_.may_run_ahead()) {
    HANDOVER_TRY(connection_.call(Command::mig_data_write, std::move(request), {.out = part, .in = {}}));
    return {};
  }
  HANDOVER_ASSIGN(writing_, connection_.begin(Command::mig_data_write, std::move(request), part));
  return {};
}

Status ClientMigration::finish_writing() {
  const auto ticket = std::exchange(writing_, std::nullopt);
  if (ticket) HANDOVER_TRY_CONTEXT(connection_.finish(*ticket), "the device could not load what was written");
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
