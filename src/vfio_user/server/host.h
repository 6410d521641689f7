#pragma once

#include <memory>

#include "handover/base/event_loop.h"
#include "handover/vfio_user/server.h"
#include "vfio_user/server/bus.h"
#include "vfio_user/server/state_walker.h"

namespace handover::vfio_user {

/// What belongs to the device and not to one client's connection.  Lives on the server's loop, but for what
/// Bus lets the model's threads do.
struct Host {
  Host(EventLoop& event_loop, DeviceModel& device, ServerOptions server_options)
      : loop(event_loop),
        model(device),
        spec(device.spec()),
        options(std::move(server_options)),
        table(log, options.max_dma_maps),
        irqs(spec.irq_counts),
        messages(std::make_shared<MessageDma>(loop)),
        bus(table, log, *messages, irqs),
        walker(std::make_shared<StateWalker>(loop, model)) {}

  EventLoop& loop;
  DeviceModel& model;
  const DeviceSpec& spec;
  const ServerOptions options;
  IovaLog log;
  DmaTable table;
  IrqTable irqs;
  std::shared_ptr<MessageDma> messages;
  Bus bus;
  std::shared_ptr<StateWalker> walker;
};

}  // namespace handover::vfio_user
