#pragma once

#include <memory>

#include "handover/vfio_user/device_model.h"
#include "vfio_user/dma/dma_table.h"
#include "vfio_user/server/irq_table.h"
#include "vfio_user/server/message_dma.h"

namespace handover::vfio_user {

/// The way of a device model to the machine: mapped memory, messages where there is none, eventfds.
class Bus final : public DeviceBus {
 public:
  Bus(DmaTable& table, WriteLog& log, MessageDma& messages, IrqTable& irqs)
      : table_(table), log_(log), messages_(messages), irqs_(irqs) {}

  Status dma_read(Iova from, std::span<std::byte> to) override;
  Status dma_write(Iova to, std::span<const std::byte> from) override;
  void trigger_irq(std::uint32_t index, std::uint32_t vector) override { irqs_.trigger(index, vector); }

 private:
  DmaTable& table_;
  WriteLog& log_;
  MessageDma& messages_;
  IrqTable& irqs_;
};

}  // namespace handover::vfio_user
