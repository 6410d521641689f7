#include "vfio/packet_loader.h"

#include <pthread.h>

#include "handover/base/trace.h"
#include "vfio/device_packet.h"

namespace handover::vfio {

PacketLoader::PacketLoader(std::uint64_t max_queued, CancelToken cancel, Steps steps)
    : cancel_(std::move(cancel)), steps_(std::move(steps)), queue_(max_queued) {
}

PacketLoader::~PacketLoader() {
  stop();
}

void PacketLoader::start() {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "load-device");
    HANDOVER_TRACE(device_load_start, steps_.device.c_str());
    run();
    HANDOVER_TRACE(device_load_end, steps_.device.c_str(), result_.has_value() ? 1 : 0, queue_.peak());
  });
}

void PacketLoader::stop() {
  queue_.close();
  if (thread_.joinable()) thread_.join();
}

Status PacketLoader::wait() {
  if (thread_.joinable()) thread_.join();
  HANDOVER_TRY(result_);
  if (!complete_) return fail(Errc::protocol, "the state of device `{}` is not complete", steps_.device);
  return {};
}

void PacketLoader::run() {
  result_ = load_all();
  queue_.close();
  if (!result_) steps_.failed(result_.error());
}

Status PacketLoader::load_all() {
  for (std::uint32_t index = 0;; ++index) {
    if (!queue_.ready()) HANDOVER_TRACE(device_load_starved, steps_.device.c_str(), index);
    HANDOVER_ASSIGN(auto next, queue_.take(cancel_));
    if (!next) return {};
    const auto& packet = next->packet;
    const std::span<const std::byte> content(packet.bytes.get() + DevicePacketHeader::kSize,
                                             packet.size - DevicePacketHeader::kSize);
    HANDOVER_TRACE(device_load_buffer_start, steps_.device.c_str(), index, content.size());
    auto loaded = next->config ? steps_.config(content) : steps_.data(content);
    HANDOVER_TRACE(device_load_buffer_end, steps_.device.c_str(), index);
    queue_.done(packet);
    if (!loaded)
      return std::unexpected(std::move(loaded).error().with_context(
          fmt::format("device `{}`, packet {}", steps_.device, index)));
    steps_.loaded(packet);
    if (next->config) {
      complete_ = true;
      return {};
    }
  }
}

}  // namespace handover::vfio
