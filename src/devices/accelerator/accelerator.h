#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "devices/accelerator/config_space.h"
#include "devices/accelerator/device_memory.h"
#include "devices/accelerator/engine.h"
#include "devices/accelerator/state_decoder.h"
#include "devices/accelerator/state_encoder.h"
#include "devices/accelerator/window.h"
#include "handover/base/event_loop.h"
#include "handover/vfio_user/device_model.h"

namespace handover::accelerator {

struct Options {
  std::string name = "accelerator";  ///< for messages
  std::uint64_t memory_size = 256 * MiB;
  /// How much longer RESUMING to STOP takes than the work itself does, as hardware may that has to set up
  /// what it was given.  Other commands of the device wait meanwhile.
  std::chrono::nanoseconds load_cost{0};
  EventLoop* loop = nullptr;  ///< the server's; needed with a load_cost, outlives the device
};

/// The accelerator (interface.h is its programming interface), served by a vfio_user::Server.
///
/// It migrates with STOP_COPY, P2P and PRE_COPY.  It cannot tell DMA to a peer from other DMA, so in the
/// P2P states its engine starts none at all.
///
/// A client that goes away leaves the device as it is, with the engine held: jobs that were submitted go on
/// when the next client rings the doorbell, enables the queue or starts the device, by which time it must
/// have mapped the memory.
///
/// The server's loop calls it; it must outlive the server.
class Accelerator final : public vfio_user::DeviceModel {
 public:
  static Result<std::unique_ptr<Accelerator>> create(Options options);

  const vfio_user::DeviceSpec& spec() const override { return spec_; }
  void attach(vfio_user::DeviceBus& bus) override { engine_.attach(bus); }

  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override;
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override;

  void reset(Completion done) override;
  void transition(vfio::DeviceState from, vfio::DeviceState to, Completion done) override;
  Result<std::size_t> migration_read(std::span<std::byte> to) override;
  Status migration_write(std::span<const std::byte> from) override;
  std::optional<vfio::PrecopyInfo> precopy_info() const override;
  std::optional<std::uint64_t> stop_copy_size() const override;

  /// Done after the piece of DMA that is under way.
  void dma_unmapping(Iova start, std::uint64_t size, Completion done) override;
  void disconnected(Completion done) override;

 private:
  Accelerator(Options options, std::unique_ptr<DeviceMemory> memory, Window window);

  Status power_on();
  void start_resuming(Completion done);
  void finish_resuming(Completion done);
  Result<StateDecoder::Loaded> judge();
  void report_refusal(const Error& error);
  DeviceRecord record() const;

  Options options_;
  vfio_user::DeviceSpec spec_;
  ConfigSpace config_;
  std::array<std::byte, kMsixBarSize> msix_{};  // plain storage: the VMM emulates the table
  Window window_;
  std::unique_ptr<DeviceMemory> memory_;
  std::optional<StateEncoder> encoder_;
  std::optional<StateDecoder> decoder_;
  bool refusal_reported_ = false;
  Engine engine_;  // last: its thread uses what is above
};

}  // namespace handover::accelerator
