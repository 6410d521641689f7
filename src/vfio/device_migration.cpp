// The source's half: what is left, pre-copy, the state in stop-copy.

#include "handover/vfio/device_migration.h"

#include <algorithm>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/channel/memory_channel.h"
#include "handover/stream/format.h"
#include "vfio/device_packet.h"
#include "vfio/packet_loader.h"

namespace handover::vfio {

namespace tag = stream::vfio_tag;

namespace {

/// The most that one DATA record or packet carries, unless the device's chunks must stay whole; QEMU's limit
/// too.
constexpr std::size_t kChunk = 1 * MiB;

/// A stopped device may be late with its data (protocol v1); it is waited for, and not for ever.
class LateData {
 public:
  explicit LateData(const Device& device) : device_(device) {}
  Status wait(const StateRead& read, const CancelToken& cancel) {
    using std::chrono::steady_clock;
    const auto now = steady_clock::now();
    if (read.bytes > 0) {
      waiting_since_.reset();
      return {};
    }
    if (!waiting_since_) waiting_since_ = now;
    if (read.kind != StateRead::Kind::nothing_now || now - *waiting_since_ > std::chrono::seconds(30))
      return fail(Errc::device, "device `{}` has nothing to say and no end in stop-copy", device_.id());
    auto paused = wait_fd(-1, 0, cancel, now + std::chrono::milliseconds(1));
    if (!paused && paused.error().code() != Errc::timeout) return std::unexpected(std::move(paused).error());
    return {};
  }

 private:
  const Device& device_;
  std::optional<std::chrono::steady_clock::time_point> waiting_since_;
};

}  // namespace

DeviceMigration::DeviceMigration(Device& device, DeviceConfig& config, std::string path)
    : device_(device), config_(config), path_(std::move(path)) {
}

DeviceMigration::~DeviceMigration() = default;

std::uint32_t DeviceMigration::version_id() const {
  return tag::kSectionVersion;
}

std::size_t DeviceMigration::chunk_size() const {
  const auto* protocol = device_.migration();
  return protocol->keeps_chunks() ? protocol->preferred_chunk()
                                  : std::min(kChunk, protocol->preferred_chunk());
}

Status DeviceMigration::prepare() {
  if (device_.lost()) return fail(Errc::device, "device `{}` is lost", device_.id());
  if (!device_.migration())
    return fail(Errc::unsupported, "device `{}` cannot migrate: {}", device_.id(),
                device_.migration_blocker());
  HANDOVER_TRY(fit());
  std::lock_guard lock(device_mutex_);
  const auto state = last_state();
  if (state != DeviceState::running && state != DeviceState::stop)
    return fail(Errc::state, "device `{}` is in state {}; it must be running or stopped to be migrated",
                device_.id(), to_string(state));
  migrating_ = true;
  return {};
}

Status DeviceMigration::save_setup(StreamWriter& out, const SaveOptions& options) {
  save_options_ = options;
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(chunk_size());
  bytes_ = 0;
  acks_wanted_ = 0;
  ack_due_ = false;
  std::lock_guard lock(device_mutex_);
  // Where the device is decides (mission C4): a running one begins its pre-copy, a stopped one is read at
  // the end.
  if (last_state() == DeviceState::running && has(kMigrationPreCopy)) {
    HANDOVER_TRY(enter(DeviceState::pre_copy, DeviceState::running));
    ask_precopy();
    ack_due_ = options.switchover_ack;
    acks_wanted_ = ack_due_ ? 1 : 0;
  }
  saving_ = true;
  out.be64(tag::kDevSetupState);
  out.be64(tag::kEndOfState);
  return out.status();
}

// An estimate only: a device that cannot answer now counts as having nothing (mission C3).
void DeviceMigration::ask_precopy() {
  const auto before = initial_bytes_;
  initial_bytes_ = precopy_bytes_ = 0;
  const auto info = device_.migration()->precopy_info();
  if (!info || !*info) return;
  initial_bytes_ = (*info)->initial_bytes;
  precopy_bytes_ = initial_bytes_ + (*info)->dirty_bytes;
  // New initial data needs an acknowledgement of its own.
  const bool renewed = (*info)->reinit || (before == 0 && initial_bytes_ > 0);
  if (renewed && acks_wanted_ > 0 && !ack_due_) {
    ack_due_ = true;
    ++acks_wanted_;
    HANDOVER_TRACE(device_reinit, device_.id().c_str(), initial_bytes_);
  }
}

Result<Pending> DeviceMigration::pending(bool exact) {
  if (exact && saving_) {
    std::lock_guard lock(device_mutex_);
    auto size = device_.migration()->stop_copy_size();
    size_unknown_ = !size || !*size;
    stop_copy_bytes_ = size_unknown_ ? 0 : **size;
    const auto state = last_state();
    if (state == DeviceState::pre_copy || state == DeviceState::pre_copy_p2p)
      ask_precopy();
    else
      initial_bytes_ = precopy_bytes_ = 0;
    HANDOVER_TRACE(device_pending, device_.id().c_str(), initial_bytes_, precopy_bytes_, stop_copy_bytes_);
  }
  Pending pending;
  pending.can_precopy = precopy_bytes_;
  // What a device would send stopped includes what it can send now.
  pending.must_stop = stop_copy_bytes_ > precopy_bytes_ ? stop_copy_bytes_ - precopy_bytes_ : 0;
  pending.hold_switchover = initial_bytes_ > 0;
  pending.size_unknown = size_unknown_;
  return pending;
}

// Nothing if the device has been taken out of the state meanwhile.
Result<StateRead> DeviceMigration::read_state(DeviceState in, std::span<std::byte> buffer) {
  std::lock_guard lock(device_mutex_);
  if (last_state() != in) return StateRead{StateRead::Kind::nothing_now, 0};
  HANDOVER_ASSIGN_CONTEXT(auto read, device_.migration()->read(buffer), "reading the state of device `{}`",
                          device_.id());
  bytes_ += read.bytes;
  if (read.bytes > 0) HANDOVER_TRACE(device_buffer_saved, device_.id().c_str(), read.bytes);
  return read;
}

Result<StateRead> DeviceMigration::send_chunk(DeviceState in, StreamWriter& out) {
  HANDOVER_ASSIGN(auto read, read_state(in, {buffer_.get(), chunk_size()}));
  if (read.bytes > 0) {
    out.be64(tag::kDevDataState);
    out.be64(read.bytes);
    out.page_ref({buffer_.get(), read.bytes});
    // The buffer is filled anew by the next read.
    HANDOVER_TRY(out.flush());
    initial_bytes_ -= std::min<std::uint64_t>(initial_bytes_, read.bytes);
    precopy_bytes_ -= std::min<std::uint64_t>(precopy_bytes_, read.bytes);
  }
  return read;
}

Result<Iterated> DeviceMigration::save_iterate(StreamWriter& out, const IterateBudget&) {
  if (!saving_)
    return fail(Errc::state,
                "device `{}` lost its pre-copy session: the machine was stopped and started meanwhile",
                device_.id());
  auto outcome = Iterated::nothing_now;
  if (last_state() == DeviceState::pre_copy) {
    // One record a turn, so that a device that never runs dry cannot hold up the others (mission C2).
    HANDOVER_ASSIGN(auto read, send_chunk(DeviceState::pre_copy, out));
    if (read.kind == StateRead::Kind::data) outcome = Iterated::more;
  }
  const bool ask_for_ack = ack_due_ && initial_bytes_ == 0;
  out.be64(ask_for_ack ? tag::kDevInitDataSent : tag::kEndOfState);
  if (ask_for_ack) ack_due_ = false;
  HANDOVER_TRY(out.status());
  return outcome;
}

// Already there, but for a device that was stopped before the migration began.
Status DeviceMigration::enter_stop_copy() {
  std::lock_guard lock(device_mutex_);
  return enter(DeviceState::stop_copy, DeviceState::stop);
}

Status DeviceMigration::save_complete(StreamWriter& out) {
  if (!saving_) return fail(Errc::state, "device `{}` lost its saving session", device_.id());
  if (!save_options_.parallel) {
    HANDOVER_TRY(enter_stop_copy());
    LateData late(device_);
    for (;;) {
      HANDOVER_ASSIGN(auto read, send_chunk(DeviceState::stop_copy, out));
      if (read.kind == StateRead::Kind::end) break;
      HANDOVER_TRY(late.wait(read, {}));
    }
  }
  out.be64(tag::kEndOfState);
  return out.status();
}

Status DeviceMigration::save_parallel(PacketSink& to, const CancelToken& cancel) {
  HANDOVER_TRY(enter_stop_copy());
  const auto most = chunk_size();
  std::uint32_t index = 0;
  LateData late(device_);
  for (bool more = true; more;) {
    HANDOVER_TRY(cancel.check());
    Packet packet{std::make_unique_for_overwrite<std::byte[]>(DevicePacketHeader::kSize + most), 0};
    HANDOVER_ASSIGN(const auto read, read_state(DeviceState::stop_copy,
                                                {packet.bytes.get() + DevicePacketHeader::kSize, most}));
    more = read.kind != StateRead::Kind::end;
    if (more) HANDOVER_TRY(late.wait(read, cancel));
    if (read.bytes == 0) continue;
    DevicePacketHeader{.index = index++}.put(packet.bytes.get());
    packet.size = DevicePacketHeader::kSize + read.bytes;
    HANDOVER_TRY(to.send(std::move(packet)));
  }
  return send_config(to, index);
}

// The last packet carries the configuration (mission D4).
Status DeviceMigration::send_config(PacketSink& to, std::uint32_t index) {
  MemoryChannel content("the configuration of " + device_.id());
  StreamWriter out(content);
  out.be64(tag::kDevConfigState);
  HANDOVER_TRY_CONTEXT(config_.save(out), "saving the configuration of device `{}`", device_.id());
  out.be64(tag::kEndOfState);
  HANDOVER_TRY(out.flush());
  const auto& bytes = content.output();
  Packet packet{std::make_unique_for_overwrite<std::byte[]>(DevicePacketHeader::kSize + bytes.size()),
                DevicePacketHeader::kSize + bytes.size()};
  DevicePacketHeader{.index = index, .flags = DevicePacketHeader::kConfigState}.put(packet.bytes.get());
  std::ranges::copy(bytes, packet.bytes.get() + DevicePacketHeader::kSize);
  return to.send(std::move(packet));
}

Status DeviceMigration::save_state(StreamWriter& out) {
  if (!save_options_.parallel) {
    out.be64(tag::kDevConfigState);
    HANDOVER_TRY_CONTEXT(config_.save(out), "saving the configuration of device `{}`", device_.id());
  }
  out.be64(tag::kEndOfState);
  return out.status();
}

ItemCounters DeviceMigration::counters() const {
  return {.bytes = bytes_.load(std::memory_order_relaxed),
          .queued_peak = queued_peak_.load(std::memory_order_relaxed)};
}

void DeviceMigration::cleanup() {
  // Ends its thread, which may still be loading.
  packets_.reset();
  // Loaded, and the load as a whole has not failed: the machine starts.
  const bool arrived = std::exchange(settled_, false) && !loading_ && !load_options_.cancel.cancelled();
  load_options_ = {};
  saving_ = loading_ = false;
  initial_bytes_ = precopy_bytes_ = stop_copy_bytes_ = 0;
  acks_wanted_ = 0;
  ack_due_ = false;
  buffer_.reset();
  if (!device_.migration()) return;
  std::lock_guard lock(device_mutex_);
  if (arrived) migrating_ = false;
  if (auto left = leave_migration(); !left)
    log::error("after a migration that did not happen: {}", left.error().to_string());
}

}  // namespace handover::vfio
