#pragma once

#include <unistd.h>

#include <atomic>
#include <future>
#include <mutex>
#include <vector>

#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"
#include "handover/vfio_user/device_model.h"

namespace handover::test {

/// A device model in this process, without a socket between: what a machine sees through its client, and what
/// goes wrong with it on demand.
class DirectDevice final : public vfio::Device, private vfio_user::DeviceBus {
 public:
  DirectDevice(std::string id, vfio_user::DeviceModel& model, GuestMemory& memory)
      : id_(std::move(id)), model_(model), memory_(memory) {
    info_ = {vfio::kDeviceFlagPci | vfio::kDeviceFlagReset, vfio::kPciRegions, vfio::kPciIrqs};
    for (std::uint32_t i = 0; i < vfio::kPciRegions; ++i) {
      const auto& spec = model.spec().regions[i];
      regions_.push_back({.index = i,
                          .flags = spec.flags,
                          .size = spec.size,
                          .offset = spec.fd_offset,
                          .areas = spec.areas});
    }
    for (std::uint32_t i = 0; i < vfio::kPciIrqs; ++i)
      irqs_.push_back({i, vfio::kIrqEventfd, model.spec().irq_counts[i]});
    model_.attach(*this);
  }
  ~DirectDevice() override { quiet(); }

  /// The device's process dies.
  void die() {
    lost_ = true;
    if (on_lost_) on_lost_("it was killed");
  }
  /// As before a stop: returns when the model does no DMA and raises nothing any more.
  void stop() { walk(vfio::DeviceState::running, {vfio::DeviceState::running_p2p, vfio::DeviceState::stop}); }
  void start() {
    walk(vfio::DeviceState::stop, {vfio::DeviceState::running_p2p, vfio::DeviceState::running});
  }

  std::atomic<bool> drop_interrupts{false};
  /// Changes what the device writes by DMA.
  std::function<void(Iova, std::vector<std::byte>&)> tamper;
  /// Raises a vector as the model would.
  void raise(std::uint32_t vector) { trigger_irq(vfio::kIrqMsix, vector); }
  std::uint32_t eventfds_installed() {
    std::lock_guard lock(irq_mutex_);
    return static_cast<std::uint32_t>(eventfds_.size());
  }
  std::vector<std::pair<std::uint64_t, std::vector<std::byte>>> config_writes;

  const std::string& id() const override { return id_; }
  const vfio::DeviceInfo& info() const override { return info_; }
  const vfio::RegionInfo& region(std::uint32_t index) const override { return regions_[index]; }
  const vfio::IrqInfo& irq(std::uint32_t index) const override { return irqs_[index]; }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    if (lost_) return fail(Errc::device, "lost");
    std::lock_guard lock(model_mutex_);
    return model_.region_read(index, offset, to);
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    if (lost_) return fail(Errc::device, "lost");
    std::lock_guard lock(model_mutex_);
    if (index == vfio::kRegionConfig)
      config_writes.emplace_back(offset, std::vector(from.begin(), from.end()));
    return model_.region_write(index, offset, from);
  }
  Result<Mapping> map_area(std::uint32_t index, const vfio::RegionArea& area) override {
    const auto& spec = model_.spec().regions[index];
    return Mapping::shared(spec.fd, spec.fd_offset + area.offset, area.size, 3);
  }
  vfio::AreaFile area_file(std::uint32_t index, const vfio::RegionArea& area) const override {
    const auto& spec = model_.spec().regions[index];
    return {spec.fd, spec.fd_offset + area.offset};
  }
  Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override {
    if (index != vfio::kIrqMsix) return fail(Errc::unsupported, "only MSI-X");
    std::lock_guard lock(irq_mutex_);
    eventfds_.clear();
    for (const int fd : eventfds)
      eventfds_.emplace_back(::dup(fd));
    return {};
  }
  Status reset() override { return fail(Errc::unsupported, "no reset"); }
  Status dma_map(const vfio::DmaMapping& mapping) override {
    maps.push_back({mapping.iova, mapping.size});
    return {};
  }
  Status dma_unmap(const vfio::IovaRange& range) override {
    std::erase_if(maps, [&](const auto& map) { return map.start == range.start; });
    return {};
  }
  vfio::MigrationProtocol* migration() override { return nullptr; }
  std::string migration_blocker() const override { return "it is a test's"; }
  vfio::DmaLog* dma_log() override { return nullptr; }
  bool lost() const override { return lost_; }
  void on_lost(std::function<void(std::string reason)> handler) override { on_lost_ = std::move(handler); }

  std::vector<vfio::IovaRange> maps;

 private:
  Status dma_read(Iova from, std::span<std::byte> to) override {
    if (lost_ || !memory_.read(Gpa{from.value}, to)) return fail(Errc::io, "not mapped");
    return {};
  }
  Status dma_write(Iova to, std::span<const std::byte> from) override {
    std::vector<std::byte> bytes(from.begin(), from.end());
    if (tamper) tamper(to, bytes);
    if (lost_ || !memory_.write(Gpa{to.value}, bytes)) return fail(Errc::io, "not mapped");
    return {};
  }
  void trigger_irq(std::uint32_t, std::uint32_t vector) override {
    if (drop_interrupts || lost_) return;
    std::lock_guard lock(irq_mutex_);
    const std::uint64_t one = 1;
    if (vector < eventfds_.size() && ::write(eventfds_[vector].get(), &one, sizeof one) != sizeof one)
      std::abort();
  }
  void walk(vfio::DeviceState from, std::initializer_list<vfio::DeviceState> path) {
    for (const auto to : path) {
      std::promise<Status> done;
      {
        std::lock_guard lock(model_mutex_);
        model_.transition(from, to, [&](Status status) { done.set_value(std::move(status)); });
      }
      if (auto status = done.get_future().get(); !status)
        throw std::runtime_error(status.error().to_string());
      from = to;
    }
  }
  void quiet() {
    std::promise<void> done;
    model_.disconnected([&](Status) { done.set_value(); });
    done.get_future().wait();
  }

  std::string id_;
  vfio_user::DeviceModel& model_;
  GuestMemory& memory_;
  vfio::DeviceInfo info_;
  std::vector<vfio::RegionInfo> regions_;
  std::vector<vfio::IrqInfo> irqs_;
  std::mutex model_mutex_;  // the server calls a model from one thread
  std::mutex irq_mutex_;
  std::vector<UniqueFd> eventfds_;
  std::atomic<bool> lost_{false};
  std::function<void(std::string)> on_lost_;
};

}  // namespace handover::test
