#pragma once

#include <condition_variable>
#include <mutex>

#include "devices/accelerator/accelerator.h"
#include "unit/vmm/direct_device.h"
#include "vmm/pci_bus.h"

namespace handover::test {

/// Guest memory, a bus, and one accelerator in slot 1.
struct AcceleratorRig {
  explicit AcceleratorRig(vmm::InterruptSink& sink, std::uint64_t ram = 16 * MiB,
                          std::uint64_t device_memory = 1 * MiB)
      : memory(GuestMemory::create(ram).value()),
        model(accelerator::Accelerator::create({.name = "accel0", .memory_size = device_memory}).value()),
        device("accel0", *model, *memory) {
    interrupts.start_thread();
    front = vmm::PciDevice::attach(device, 1, {bus, *memory, sink, interrupts}).value();
    pci.plug(*front);
  }
  ~AcceleratorRig() {
    pci.unplug(*front);
    front.reset();
  }
  /// The way of interrupts as the machine opens and closes it.
  void running(bool on) {
    (void)front->change(on ? RunState::paused : RunState::running, on ? RunState::running : RunState::paused);
  }

  std::unique_ptr<GuestMemory> memory;
  vmm::AddressSpace bus{*memory};
  vmm::PciBus pci{bus};
  EventLoop interrupts{"test-interrupts"};
  std::unique_ptr<accelerator::Accelerator> model;
  DirectDevice device;
  std::unique_ptr<vmm::PciDevice> front;
};

/// Takes messages and lets a test wait for them.
class WaitingSink final : public vmm::InterruptSink {
 public:
  void message(std::uint64_t, std::uint32_t data) override {
    std::lock_guard lock(mutex_);
    taken_.push_back(data);
    changed_.notify_all();
  }
  std::vector<std::uint32_t> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return taken_.size() >= count; });
    return taken_;
  }
  std::vector<std::uint32_t> taken() {
    std::lock_guard lock(mutex_);
    return taken_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint32_t> taken_;
};

}  // namespace handover::test
