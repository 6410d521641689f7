#pragma once

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "handover/base/byte_order.h"
#include "handover/vfio/device.h"
#include "vmm/synthetic/uart.h"

namespace handover::test {

/// A UART that gives back what it is sent, with ports, an interrupt line that masks itself, and a config
/// space of 255 bytes: as Linux's mtty is, without a kernel.
class UartDevice final : public vfio::Device {
 public:
  UartDevice() {
    info_ = {vfio::kDeviceFlagPci, vfio::kPciRegions, vfio::kPciIrqs};
    for (std::uint32_t i = 0; i < vfio::kPciRegions; ++i)
      regions_.push_back({.index = i, .flags = vfio::kRegionRead | vfio::kRegionWrite, .areas = {}});
    regions_[vfio::kRegionBar0].size = 8;
    regions_[vfio::kRegionConfig].size = config_.size();
    for (std::uint32_t i = 0; i < vfio::kPciIrqs; ++i)
      irqs_.push_back({i, vfio::kIrqEventfd, i == vfio::kIrqIntx ? 1u : 0u});
    store_le<std::uint16_t>(config_.data(), vmm::synthetic::kUartVendor);
    store_le<std::uint16_t>(config_.data() + 2, vmm::synthetic::kUartDevice);
    store_le<std::uint32_t>(config_.data() + 0x10, 1);
    config_[0x3d] = std::byte{1};
  }

  /// What a test does to it, or asks of it.
  std::atomic<bool> drop_interrupts{false};
  std::atomic<bool> gone{false};
  int bytes_until_gone = -1;  ///< counted while it is not negative
  std::deque<std::uint8_t> fifo;
  int unmasked = 0;
  bool line_installed() const { return eventfd_ >= 0; }
  void raise() {
    std::lock_guard lock(mutex_);
    if (eventfd_ < 0 || masked_ || drop_interrupts) return;
    const std::uint64_t one = 1;
    if (::write(eventfd_, &one, sizeof one) != sizeof one) std::abort();
    masked_ = true;
  }

  const std::string& id() const override { return id_; }
  const vfio::DeviceInfo& info() const override { return info_; }
  const vfio::RegionInfo& region(std::uint32_t index) const override { return regions_[index]; }
  const vfio::IrqInfo& irq(std::uint32_t index) const override { return irqs_[index]; }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    if (gone || !range_fits(offset, to.size(), regions_[index].size)) return fail(Errc::device, "not there");
    if (index == vfio::kRegionConfig)
      std::memcpy(to.data(), config_.data() + offset, to.size());
    else
      to[0] = std::byte{port(offset)};
    return {};
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    namespace uart = vmm::synthetic::uart;
    if (gone || index != vfio::kRegionBar0) return {};
    const auto value = std::to_integer<std::uint8_t>(from[0]);
    if (offset != uart::kData) {
      registers_[offset] = value;
      if (offset == uart::kFifoControl) fifo.clear();
      return {};
    }
    fifo.push_back(value);
    if (fifo.size() == 1 && registers_[uart::kInterruptEnable] == uart::kReceivedDataInterrupt) raise();
    return {};
  }
  Result<Mapping> map_area(std::uint32_t, const vfio::RegionArea&) override {
    return fail(Errc::unsupported, "ports");
  }
  Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override {
    if (index != vfio::kIrqIntx) return fail(Errc::unsupported, "only a line");
    std::lock_guard lock(mutex_);
    eventfd_ = eventfds.empty() ? -1 : eventfds[0];
    masked_ = false;
    return {};
  }
  Status unmask_irq(std::uint32_t) override {
    std::lock_guard lock(mutex_);
    masked_ = false;
    ++unmasked;
    return {};
  }
  Status reset() override { return fail(Errc::unsupported, "no reset"); }
  Status dma_map(const vfio::DmaMapping&) override { return {}; }
  Status dma_unmap(const vfio::IovaRange&) override { return {}; }
  vfio::MigrationProtocol* migration() override { return nullptr; }
  std::string migration_blocker() const override { return "it is a test's"; }
  vfio::DmaLog* dma_log() override { return nullptr; }
  bool lost() const override { return gone; }
  void on_lost(std::function<void(std::string reason)>) override {}

 private:
  std::uint8_t port(std::uint64_t offset) {
    namespace uart = vmm::synthetic::uart;
    if (offset == uart::kLineStatus) return fifo.empty() ? 0x60 : 0x60 | uart::kDataReady;
    if (offset != uart::kData) return registers_[offset];
    if (fifo.empty()) return 0;
    const auto value = fifo.front();
    fifo.pop_front();
    if (bytes_until_gone >= 0 && bytes_until_gone-- == 0) gone = true;
    return value;
  }

  const std::string id_ = "uart0";
  vfio::DeviceInfo info_;
  std::vector<vfio::RegionInfo> regions_;
  std::vector<vfio::IrqInfo> irqs_;
  std::vector<std::byte> config_ = std::vector<std::byte>(255);
  std::uint8_t registers_[8] = {};
  std::mutex mutex_;
  int eventfd_ = -1;
  bool masked_ = false;
};

}  // namespace handover::test
