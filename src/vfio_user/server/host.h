#pragma once

#include <memory>

#include "handover/base/event_loop.h"
#include "handover/vfio_user/server.h"
#include "vfio_user/server/bus.h"
#include "vfio_user/server/state_walker.h"

namespace handover::vfio_user {

/// What clients are told of a device that is served with these options.
inline DeviceSpec offered_spec(DeviceSpec spec, const ServerOptions& options) {
  spec.migration_features &= options.migration_features_mask;
  // Protocol v1 has no P2P states.
  if (options.migration == MigrationInterface::v1)
    spec.migration_features &= vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;
  if (options.migration == MigrationInterface::none) spec.migration_features = 0;
  spec.dma_logging = spec.dma_logging && options.dma_logging;
  return spec;
}

/// What belongs to the device and not to one client's connection.  Lives on the server's loop, but for what
/// Bus lets the model's threads do.
struct Host {
  Host(EventLoop& event_loop, DeviceModel& device, ServerOptions server_options)
      : loop(event_loop),
        model(device),
        options(std::move(server_options)),
        spec(offered_spec(device.spec(), options)),
        log({options.max_dma_log_ranges, options.max_dma_log_bytes}),
        table(log, options.max_dma_maps),
        irqs(spec.irq_counts),
        messages(std::make_shared<MessageDma>(loop)),
        bus(table, log, *messages, irqs),
        walker(std::make_shared<StateWalker>(loop, model, spec.migration_features)) {}

  EventLoop& loop;
  DeviceModel& model;
  const ServerOptions options;
  const DeviceSpec spec;  // what clients are told: the model's, less what is not offered
  WriteLog log;
  DmaTable table;
  IrqTable irqs;
  std::shared_ptr<MessageDma> messages;
  Bus bus;
  std::shared_ptr<StateWalker> walker;
};

}  // namespace handover::vfio_user
