// The destination's half: what comes in the stream, and what comes in packets.

#include <algorithm>

#include "handover/base/trace.h"
#include "handover/channel/memory_channel.h"
#include "handover/stream/format.h"
#include "handover/vfio/device_migration.h"
#include "vfio/device_packet.h"
#include "vfio/packet_loader.h"

namespace handover::vfio {

namespace tag = stream::vfio_tag;

namespace {

/// The most that comes at once; QEMU's limit too.
constexpr std::size_t kChunk = 1 * MiB;

Status expect_end(StreamReader& in) {
  HANDOVER_ASSIGN(auto word, in.be64());
  if (word != tag::kEndOfState)
    return fail(Errc::protocol, "END_OF_STATE expected at offset {}, found {:#x}", in.offset() - 8, word);
  return {};
}

}  // namespace

Status DeviceMigration::load_setup(const LoadOptions& options) {
  if (!device_.migration())
    return fail(Errc::unsupported, "device `{}` cannot load a state: {}", device_.id(),
                device_.migration_blocker());
  load_options_ = options;
  progress_ = {};
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(largest_record());
  if (options.parallel)
    packets_ = std::make_unique<PacketLoader>(
        options.max_queued, options.cancel,
        PacketLoader::Steps{.device = device_.id(),
                            .data = [this](std::span<const std::byte> data) { return load_data(data); },
                            .config = [this](std::span<const std::byte> data) { return load_config(data); },
                            .loaded =
                                [this](const Packet& packet) {
                                  progress_.packet_charge += packet.charge();
                                  report_progress();
                                },
                            .failed =
                                [this](const Error& error) {
                                  if (load_options_.failed) load_options_.failed(error);
                                }});
  loading_ = true;
  config_loaded_ = settled_ = switched_over_ = in_stream_ = false;
  std::lock_guard lock(device_mutex_);
  migrating_ = true;
  HANDOVER_TRY(revive());
  return enter(DeviceState::resuming, DeviceState::stop);
}

void DeviceMigration::report_progress() {
  if (load_options_.report) load_options_.report(progress_);
}

Status DeviceMigration::load_data(std::span<const std::byte> data) {
  const auto begin = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(device_mutex_);
    HANDOVER_TRY_CONTEXT(device_.migration()->write(data),
                         "loading the state of device `{}` (the device's own log says more)", device_.id());
  }
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
  progress_.bytes += data.size();
  progress_.busy_ns += static_cast<std::uint64_t>(took.count());
  bytes_ += data.size();
  HANDOVER_TRACE(device_buffer_loaded, device_.id().c_str(), data.size());
  return {};
}

// A record is loaded in pieces, but for a device that needs it whole.
Status DeviceMigration::load_record(StreamReader& in) {
  HANDOVER_TRY(leave_packets());
  HANDOVER_ASSIGN(auto bytes, in.be64());
  const auto most = largest_record();
  if (device_.migration()->keeps_chunks() && bytes > most)
    return fail(Errc::mismatch, "a chunk of {} bytes does not fit device `{}`, which takes {} at once", bytes,
                device_.id(), most);
  while (bytes > 0) {
    const auto part = std::span(buffer_.get(), std::min<std::uint64_t>(bytes, most));
    HANDOVER_TRY(in.bytes(part));
    HANDOVER_TRY(load_data(part));
    bytes -= part.size();
  }
  report_progress();
  return {};
}

// Before the switchover records are the rule; after it, one means that no packets come.
Status DeviceMigration::leave_packets() {
  if (!packets_ || !switched_over_ || in_stream_) return {};
  if (packets_->used())
    return fail(Errc::protocol, "the state of device `{}` comes in the stream and in packets", device_.id());
  packets_->stop();
  in_stream_ = true;
  return {};
}

Status DeviceMigration::load_live(StreamReader& in, std::uint32_t) {
  for (;;) {
    HANDOVER_ASSIGN(auto word, in.be64());
    switch (word) {
      case tag::kDevSetupState:
        return expect_end(in);
      case tag::kDevDataState:
        HANDOVER_TRY(load_record(in));
        break;
      case tag::kEndOfState:
        return {};
      case tag::kDevInitDataSent:
        if (!load_options_.approve_switchover || !has(kMigrationPreCopy))
          return fail(Errc::protocol,
                      "device `{}`: the source waits for an acknowledgement, which needs a return path and a "
                      "device with pre-copy",
                      device_.id());
        // Everything before it has been loaded: records are loaded where they are read.
        load_options_.approve_switchover();
        return {};
      default:
        return fail(Errc::protocol, "device `{}`: unknown tag {:#x} at offset {}", device_.id(), word,
                    in.offset() - 8);
    }
  }
}

Status DeviceMigration::load_config_body(StreamReader& in) {
  HANDOVER_TRY_CONTEXT(config_.load(in), "loading the configuration of device `{}`", device_.id());
  HANDOVER_TRY(expect_end(in));
  config_loaded_ = true;
  return {};
}

Status DeviceMigration::load_state(StreamReader& in, std::uint32_t) {
  HANDOVER_ASSIGN(auto word, in.be64());
  if (word == tag::kEndOfState && packets_ && !in_stream_) return {};  // it comes in a packet
  if (word != tag::kDevConfigState)
    return fail(Errc::protocol, "device `{}`: configuration expected at offset {}, found {:#x}", device_.id(),
                in.offset() - 8, word);
  HANDOVER_TRY(leave_packets());
  return load_config_body(in);
}

std::size_t DeviceMigration::largest_record() const {
  const auto* protocol = device_.migration();
  return protocol && protocol->keeps_chunks() ? std::max(kChunk, protocol->preferred_chunk()) : kChunk;
}

std::size_t DeviceMigration::largest_packet() const {
  // Where a chunk of data fits, any configuration does.
  return DevicePacketHeader::kSize + largest_record();
}

Status DeviceMigration::load_packet(Packet packet) {
  if (!packets_) return fail(Errc::protocol, "device `{}` expects no packets", device_.id());
  HANDOVER_TRY_CONTEXT(packets_->put(std::move(packet)), "device `{}`", device_.id());
  return {};
}

Status DeviceMigration::switchover_start() {
  switched_over_ = true;
  if (packets_) packets_->start();
  return {};
}

Status DeviceMigration::load_config(std::span<const std::byte> packet) {
  MemoryChannel content("the configuration packet of " + device_.id(), packet);
  StreamReader in(content);
  HANDOVER_ASSIGN(auto word, in.be64());
  if (word != tag::kDevConfigState) return fail(Errc::protocol, "configuration expected, found {:#x}", word);
  HANDOVER_TRY(load_config_body(in));
  HANDOVER_ASSIGN(const bool end, in.at_end());
  if (!end) return fail(Errc::protocol, "bytes after the end of the configuration");
  return settle();
}

Status DeviceMigration::settle() {
  if (!loading_ || !config_loaded_)
    return fail(Errc::protocol, "the stream has no state of device `{}`", device_.id());
  {
    // The device judges here what it was given.
    std::lock_guard lock(device_mutex_);
    HANDOVER_TRY(enter(DeviceState::stop, DeviceState::stop));
  }
  HANDOVER_TRY_CONTEXT(config_.apply(), "setting up device `{}`", device_.id());
  settled_ = true;
  return {};
}

Status DeviceMigration::load_finish() {
  if (packets_ && !in_stream_)
    HANDOVER_TRY(packets_->wait());
  else
    HANDOVER_TRY(settle());
  if (packets_) queued_peak_ = packets_->peak();
  if (!settled_) return fail(Errc::protocol, "the state of device `{}` is not complete", device_.id());
  loading_ = false;
  return {};
}

}  // namespace handover::vfio
