#include "handover/vfio/v1_migration.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "handover/base/byte_order.h"
#include "handover/base/log.h"
#include "handover/vfio_abi/v1_region.h"
#include "vfio/v1_data_section.h"

namespace handover::vfio {
namespace {

using enum DeviceState;

constexpr std::uint64_t kFeatures = kMigrationStopCopy | kMigrationPreCopy;

/// The writes of device_state that take a device from one state to another.
///
/// They end where path_between() ends, and go through none but stopped or running states that the v2 path has
/// as well, or through the saving state that v1's own list has there: 3>2>0 never starts the device anew.
struct Route {
  DeviceState from;
  DeviceState to;
  std::array<std::uint32_t, 2> writes;  // the second is the same as the first if there is only one
};
constexpr Route one(DeviceState from, DeviceState to) {
  return {from, to, {*v1::bits_of(to), *v1::bits_of(to)}};
}
constexpr Route kRoutes[] = {
    one(running, stop),
    one(running, pre_copy),
    one(running, stop_copy),
    one(running, resuming),
    one(pre_copy, running),
    {pre_copy, stop, {v1::kSaving, v1::kStop}},
    one(pre_copy, stop_copy),
    {pre_copy, resuming, {v1::kRunning, v1::kResuming}},
    one(stop, running),
    {stop, pre_copy, {v1::kRunning, v1::kPreCopy}},
    one(stop, stop_copy),
    one(stop, resuming),
    one(stop_copy, running),
    one(stop_copy, stop),
    {stop_copy, resuming, {v1::kStop, v1::kResuming}},
    one(resuming, running),
    one(resuming, stop),
    {resuming, pre_copy, {v1::kRunning, v1::kPreCopy}},
    {resuming, stop_copy, {v1::kStop, v1::kSaving}},
};

std::string name_of(std::uint32_t bits) {
  const auto state = v1::state_of(bits);
  return state ? std::string(to_string(*state))
               : fmt::format("a state that does not exist ({:#x})", bits & v1::kStateMask);
}

}  // namespace

V1Migration::V1Migration(Device& device, std::uint32_t region, std::unique_ptr<V1DataSection> data)
    : device_(device), region_(region), data_(std::move(data)) {
}

V1Migration::~V1Migration() = default;

std::optional<std::uint32_t> V1Migration::find_region(const Device& device) {
  for (auto index = kPciRegions; index < device.info().num_regions; ++index)
    if (device.region(index).type == v1::kRegionType) return index;
  return std::nullopt;
}

Result<std::unique_ptr<V1Migration>> V1Migration::create(Device& device, std::uint32_t region) {
  HANDOVER_ASSIGN(auto data, V1DataSection::open(device, region, kMaxChunk));
  return std::unique_ptr<V1Migration>(new V1Migration(device, region, std::move(data)));
}

std::size_t V1Migration::preferred_chunk() const {
  return data_->max_chunk();
}

Result<std::uint64_t> V1Migration::read_register(std::uint64_t offset) {
  std::byte bytes[sizeof(std::uint64_t)];
  HANDOVER_TRY(device_.region_read(region_, offset, bytes));
  return load_int<std::uint64_t, std::endian::native>(bytes);
}

Result<std::uint64_t> V1Migration::read_pending() {
  pending_.reset();
  return read_register(v1::kPendingBytes);
}

Result<std::uint32_t> V1Migration::read_state_register() {
  std::byte bytes[sizeof(std::uint32_t)];
  HANDOVER_TRY_CONTEXT(device_.region_read(region_, v1::kDeviceState, bytes), "reading device_state");
  return load_int<std::uint32_t, std::endian::native>(bytes);
}

Result<DeviceState> V1Migration::state() {
  HANDOVER_ASSIGN(const auto raw, read_state_register());
  const auto state = v1::state_of(raw);
  if (!state) return fail(Errc::protocol, "device `{}` says that it is in {}", device_.id(), name_of(raw));
  stop_deferred_ = stop_deferred_ && *state == resuming;
  last_ = stop_deferred_ ? stop : *state;
  return last_;
}

Status V1Migration::set_state(DeviceState to) {
  HANDOVER_ASSIGN(const auto from, state());
  if (from == to) return {};
  HANDOVER_TRY(path_between(from, to, kFeatures));
  const auto* route =
      std::ranges::find_if(kRoutes, [&](const Route& each) { return each.from == from && each.to == to; });
  if (route == std::end(kRoutes))
    return fail(Errc::state, "protocol v1 has no way from {} to {}", to_string(from), to_string(to));
  for (const auto bits : {route->writes[0], route->writes[1]}) {
    HANDOVER_TRY_CONTEXT(enter(bits), "cannot bring the device to {}", to_string(to));
    if (bits == route->writes[1]) break;
  }
  return {};
}

// One write of the register, and what became of it.
Status V1Migration::enter(std::uint32_t bits) {
  pending_.reset();
  if (stop_deferred_ && bits != v1::kRunning)
    return fail(Errc::unsupported, "device `{}` was loaded and can only be started now, or reset",
                device_.id());
  HANDOVER_ASSIGN(const auto before, read_state_register());
  std::byte bytes[sizeof before];
  store_int<std::uint32_t, std::endian::native>(bytes, (before & ~v1::kStateMask) | bits);
  const auto written = device_.region_write(region_, v1::kDeviceState, bytes);
  auto after = read_state_register();
  if (!after) return std::unexpected(written ? std::move(after).error() : written.error());
  const auto from = before & v1::kStateMask, now = *after & v1::kStateMask;
  if (written && now == bits) {
    stop_deferred_ = false;
    last_ = *v1::state_of(bits);
    return {};
  }
  const bool refused = !written && now == from;
  // Some drivers leave pre-copy only by stopping.
  if (refused && from == v1::kPreCopy && bits == v1::kRunning) {
    HANDOVER_TRY(enter(v1::kStop));
    return enter(v1::kRunning);
  }
  // What cannot be loaded shows as an error of the device or of a write; a plain refusal means that the
  // driver goes from here to running only.
  if (refused && from == v1::kResuming && bits == v1::kStop && written.error().sys_errno() == EINVAL) {
    log::warn("device `{}` judges what it was given only when it starts", device_.id());
    stop_deferred_ = true;
    last_ = stop;
    return {};
  }
  if (const auto state = v1::state_of(now)) last_ = *state;
  if (!written)
    return std::unexpected(
        Error(written.error())
            .with_context(fmt::format("{} was refused, the device is in {}", name_of(bits), name_of(now))));
  return fail(Errc::device, "device `{}` took {} and is in {}", device_.id(), name_of(bits), name_of(now));
}

Result<StateRead> V1Migration::read(std::span<std::byte> buffer) {
  if (last_ != pre_copy && last_ != stop_copy)
    return fail(Errc::state, "device `{}` cannot be read in {}", device_.id(), to_string(last_));
  if (buffer.size() < data_->max_chunk())
    return fail(Errc::invalid_argument, "a buffer of {} bytes, and chunks of device `{}` may have {}",
                buffer.size(), device_.id(), data_->max_chunk());
  const auto nothing = last_ == stop_copy ? StateRead::Kind::end : StateRead::Kind::nothing_now;
  std::uint64_t pending = 0;
  if (const auto known = std::exchange(pending_, std::nullopt)) {
    pending = *known;
  } else {
    HANDOVER_ASSIGN_CONTEXT(pending, read_pending(), "reading pending_bytes");
  }
  if (pending == 0) return StateRead{nothing, 0};
  // The device prepares a chunk when it is asked where that is.
  HANDOVER_ASSIGN_CONTEXT(const auto offset, read_register(v1::kDataOffset), "reading data_offset");
  HANDOVER_ASSIGN_CONTEXT(const auto size, read_register(v1::kDataSize), "reading data_size");
  if (size > 0) {
    HANDOVER_TRY(data_->check(offset, size));
    HANDOVER_TRY_CONTEXT(data_->read(offset, buffer.first(size)), "reading a chunk of {} bytes", size);
  }
  // Tells the device that the chunk was taken.
  HANDOVER_ASSIGN_CONTEXT(const auto left, read_pending(), "reading pending_bytes");
  if (left == 0) return StateRead{nothing, size};
  if (size == 0) return StateRead{StateRead::Kind::nothing_now, 0};
  pending_ = left;
  return StateRead{StateRead::Kind::data, size};
}

Status V1Migration::write(std::span<const std::byte> data) {
  if (last_ != resuming)
    return fail(Errc::state, "device `{}` cannot be loaded in {}", device_.id(), to_string(last_));
  if (data.empty()) return {};
  if (data.size() > data_->max_chunk())
    return fail(
        Errc::mismatch,
        "a chunk of {} bytes does not fit into the data section of device `{}` ({} bytes), and protocol "
        "v1 allows no other cut; serve it with a section as large as on the source",
        data.size(), device_.id(), data_->max_chunk());
  HANDOVER_ASSIGN_CONTEXT(const auto offset, read_register(v1::kDataOffset), "reading data_offset");
  HANDOVER_TRY(data_->check(offset, data.size()));
  HANDOVER_TRY_CONTEXT(data_->write(offset, data), "writing a chunk of {} bytes", data.size());
  std::byte size[sizeof(std::uint64_t)];
  store_int<std::uint64_t, std::endian::native>(size, data.size());
  HANDOVER_TRY_CONTEXT(device_.region_write(region_, v1::kDataSize, size), "loading a chunk of {} bytes",
                       data.size());
  return {};
}

Result<std::optional<PrecopyInfo>> V1Migration::precopy_info() {
  if (last_ != pre_copy)
    return fail(Errc::state, "device `{}` is not in pre-copy but in {}", device_.id(), to_string(last_));
  HANDOVER_ASSIGN(const auto pending, read_pending());
  return PrecopyInfo{.initial_bytes = 0, .dirty_bytes = pending};
}

Result<std::optional<std::uint64_t>> V1Migration::stop_copy_size() {
  if (last_ != stop_copy) return std::nullopt;
  HANDOVER_ASSIGN(const auto pending, read_pending());
  return pending;
}

}  // namespace handover::vfio
