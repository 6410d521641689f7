#include "handover/vfio/device_migration.h"

#include <algorithm>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/stream/format.h"

namespace handover::vfio {

namespace tag = stream::vfio_tag;

namespace {

/// The most that one DATA record carries; QEMU's limit too.
constexpr std::size_t kChunk = 1 * MiB;

Status expect_end(StreamReader& in) {
  HANDOVER_ASSIGN(auto word, in.be64());
  if (word != tag::kEndOfState)
    return fail(Errc::protocol, "END_OF_STATE expected at offset {}, found {:#x}", in.offset() - 8, word);
  return {};
}

}  // namespace

DeviceMigration::DeviceMigration(Device& device, DeviceConfig& config, std::string path)
    : device_(device), config_(config), path_(std::move(path)) {
}

DeviceMigration::~DeviceMigration() = default;

std::uint32_t DeviceMigration::version_id() const {
  return tag::kSectionVersion;
}

Status DeviceMigration::prepare() {
  if (device_.lost()) return fail(Errc::device, "device `{}` is lost", device_.id());
  if (!device_.migration())
    return fail(Errc::unsupported, "device `{}` cannot migrate: {}", device_.id(),
                device_.migration_blocker());
  const auto state = last_state();
  if (state != DeviceState::running && state != DeviceState::stop)
    return fail(Errc::state, "device `{}` is in state {}; it must be running or stopped to be migrated",
                device_.id(), to_string(state));
  return {};
}

Status DeviceMigration::save_setup(StreamWriter& out, const SaveOptions&) {
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(kChunk);
  bytes_ = 0;
  // Where the device is decides (mission C4): a running one begins its pre-copy, a stopped one is read at
  // the end.
  if (last_state() == DeviceState::running && has(kMigrationPreCopy))
    HANDOVER_TRY(enter(DeviceState::pre_copy, DeviceState::running));
  saving_ = true;
  out.be64(tag::kDevSetupState);
  out.be64(tag::kEndOfState);
  return out.status();
}

Result<Pending> DeviceMigration::pending(bool exact) {
  if (exact && saving_) {
    auto* protocol = device_.migration();
    // Estimates only: a device that cannot answer now counts as having nothing (mission C3).
    auto size = protocol->stop_copy_size();
    stop_copy_bytes_ = size && *size ? **size : 0;
    initial_bytes_ = precopy_bytes_ = 0;
    if (const auto state = last_state();
        state == DeviceState::pre_copy || state == DeviceState::pre_copy_p2p) {
      if (auto info = protocol->precopy_info(); info && *info) {
        initial_bytes_ = (*info)->initial_bytes;
        precopy_bytes_ = initial_bytes_ + (*info)->dirty_bytes;
      }
    }
    HANDOVER_TRACE(device_pending, device_.id().c_str(), initial_bytes_, precopy_bytes_, stop_copy_bytes_);
  }
  Pending pending;
  pending.can_precopy = precopy_bytes_;
  // What a device would send stopped includes what it can send now.
  pending.must_stop = stop_copy_bytes_ > precopy_bytes_ ? stop_copy_bytes_ - precopy_bytes_ : 0;
  pending.hold_switchover = initial_bytes_ > 0;
  return pending;
}

Result<StateRead> DeviceMigration::send_chunk(StreamWriter& out) {
  auto* protocol = device_.migration();
  const auto want = std::min(kChunk, protocol->preferred_chunk());
  HANDOVER_ASSIGN_CONTEXT(auto read, protocol->read({buffer_.get(), want}),
                          "reading the state of device `{}`", device_.id());
  if (read.bytes > 0) {
    out.be64(tag::kDevDataState);
    out.be64(read.bytes);
    out.page_ref({buffer_.get(), read.bytes});
    // The buffer is filled anew by the next read.
    HANDOVER_TRY(out.flush());
    bytes_ += read.bytes;
    initial_bytes_ -= std::min<std::uint64_t>(initial_bytes_, read.bytes);
    precopy_bytes_ -= std::min<std::uint64_t>(precopy_bytes_, read.bytes);
    HANDOVER_TRACE(device_buffer_saved, device_.id().c_str(), read.bytes);
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
    HANDOVER_ASSIGN(auto read, send_chunk(out));
    if (read.kind == StateRead::Kind::data) outcome = Iterated::more;
  }
  out.be64(tag::kEndOfState);
  HANDOVER_TRY(out.status());
  return outcome;
}

Status DeviceMigration::save_complete(StreamWriter& out) {
  if (!saving_) return fail(Errc::state, "device `{}` lost its saving session", device_.id());
  HANDOVER_TRY(enter(DeviceState::stop_copy, DeviceState::stop));
  for (;;) {
    HANDOVER_ASSIGN(auto read, send_chunk(out));
    if (read.kind == StateRead::Kind::end) break;
    if (read.bytes == 0)
      return fail(Errc::device, "device `{}` has nothing to say and no end in stop-copy", device_.id());
  }
  out.be64(tag::kEndOfState);
  return out.status();
}

Status DeviceMigration::save_state(StreamWriter& out) {
  out.be64(tag::kDevConfigState);
  HANDOVER_TRY_CONTEXT(config_.save(out), "saving the configuration of device `{}`", device_.id());
  out.be64(tag::kEndOfState);
  return out.status();
}

ItemCounters DeviceMigration::counters() const {
  return {.bytes = bytes_.load(std::memory_order_relaxed)};
}

Status DeviceMigration::load_setup(const LoadOptions&) {
  if (!device_.migration())
    return fail(Errc::unsupported, "device `{}` cannot load a state: {}", device_.id(),
                device_.migration_blocker());
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(kChunk);
  loading_ = true;
  config_loaded_ = false;
  return enter(DeviceState::resuming, DeviceState::stop);
}

Status DeviceMigration::load_data(StreamReader& in, std::uint64_t bytes) {
  auto* protocol = device_.migration();
  const auto most = std::min(kChunk, protocol->preferred_chunk());
  while (bytes > 0) {
    const auto part = std::span(buffer_.get(), std::min<std::uint64_t>(bytes, most));
    HANDOVER_TRY(in.bytes(part));
    HANDOVER_TRY_CONTEXT(protocol->write(part),
                         "loading the state of device `{}` (the device's own log says more)", device_.id());
    HANDOVER_TRACE(device_buffer_loaded, device_.id().c_str(), part.size());
    bytes -= part.size();
    bytes_ += part.size();
  }
  return {};
}

Status DeviceMigration::load_live(StreamReader& in, std::uint32_t) {
  for (;;) {
    HANDOVER_ASSIGN(auto word, in.be64());
    switch (word) {
      case tag::kDevSetupState:
        return expect_end(in);
      case tag::kDevDataState: {
        HANDOVER_ASSIGN(auto bytes, in.be64());
        HANDOVER_TRY(load_data(in, bytes));
        break;
      }
      case tag::kEndOfState:
        return {};
      case tag::kDevInitDataSent:
        return fail(Errc::protocol,
                    "device `{}`: the source waits for a switchover acknowledgement, which was not agreed",
                    device_.id());
      default:
        return fail(Errc::protocol, "device `{}`: unknown tag {:#x} at offset {}", device_.id(), word,
                    in.offset() - 8);
    }
  }
}

Status DeviceMigration::load_state(StreamReader& in, std::uint32_t) {
  HANDOVER_ASSIGN(auto word, in.be64());
  if (word != tag::kDevConfigState)
    return fail(Errc::protocol, "device `{}`: configuration expected at offset {}, found {:#x}", device_.id(),
                in.offset() - 8, word);
  HANDOVER_TRY_CONTEXT(config_.load(in), "loading the configuration of device `{}`", device_.id());
  HANDOVER_TRY(expect_end(in));
  config_loaded_ = true;
  return {};
}

Status DeviceMigration::load_finish() {
  if (!loading_ || !config_loaded_)
    return fail(Errc::protocol, "the stream has no state of device `{}`", device_.id());
  // The device judges here what it was given.
  HANDOVER_TRY(enter(DeviceState::stop, DeviceState::stop));
  HANDOVER_TRY_CONTEXT(config_.apply(), "setting up device `{}`", device_.id());
  loading_ = false;
  return {};
}

void DeviceMigration::cleanup() {
  saving_ = false;
  initial_bytes_ = precopy_bytes_ = stop_copy_bytes_ = 0;
  buffer_.reset();
  if (!device_.migration() || device_.lost()) return;
  if (last_state() == DeviceState::pre_copy) {
    if (auto back = enter(DeviceState::running, DeviceState::running); !back)
      log::error("after a migration that did not happen: {}", back.error().to_string());
  }
  if (std::exchange(loading_, false) && last_state() == DeviceState::resuming) {
    // Leaving RESUMING would judge a state that is not complete; only a reset abandons it.
    if (auto reset = device_.reset(); reset)
      state_.store(DeviceState::running, std::memory_order_relaxed);
    else
      log::error("device `{}` cannot be reset after an incomplete load: {}", device_.id(),
                 reset.error().to_string());
  }
}

}  // namespace handover::vfio
