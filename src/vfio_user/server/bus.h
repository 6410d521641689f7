#pragma once

#include <atomic>
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
  /// Accesses of the device to what is not mapped for it.
  std::uint64_t faults() const { return faults_.load(std::memory_order_relaxed); }
  void trigger_irq(std::uint32_t index, std::uint32_t vector) override { irqs_.trigger(index, vector); }

 private:
  DmaTable& table_;
  WriteLog& log_;
  MessageDma& messages_;
  IrqTable& irqs_;
  std::atomic<std::uint64_t> faults_{0};

  Status check(Iova at, std::uint64_t size, std::uint32_t permission);
};

}  // namespace handover::vfio_user
