#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "handover/vfio/device.h"
#include "unit/vmm/device_fault_plan.h"

namespace handover::test {

/// A device whose calls fail as a plan says.  Behind it is a real one, which stands still while this one is
/// in ERROR.  What it says of a failure does not name the device: that is the caller's task.
class FaultyDevice final : public vfio::Device, private vfio::MigrationProtocol, private vfio::DmaLog {
 public:
  FaultyDevice(std::unique_ptr<vfio::Device> real, std::shared_ptr<FaultPlan> plan)
      : real_(std::move(real)), plan_(std::move(plan)) {}

  /// As the real device says; error: as this one does.  From any thread while no migration is under way.
  Result<vfio::DeviceState> state_now() const {
    if (in_error_) return vfio::DeviceState::error;
    std::lock_guard lock(protocol_mutex_);
    return real_->migration()->state();
  }
  /// How often it lost what it held.
  std::uint64_t resets() const { return resets_; }
  /// What is stuck or mute is so no more.
  void loosen() {
    stuck_ = kNothing;
    mute_ = false;
  }
  /// What is dead can be reset.
  void heal() { dead_ = false; }
  /// Called before a state is asked for, on the thread that asks.
  void set_gate(std::function<void(vfio::DeviceState to)> gate) {
    std::lock_guard lock(gate_mutex_);
    gate_ = std::move(gate);
  }

  const std::string& id() const override { return real_->id(); }
  const vfio::DeviceInfo& info() const override { return real_->info(); }
  const vfio::RegionInfo& region(std::uint32_t index) const override { return real_->region(index); }
  const vfio::IrqInfo& irq(std::uint32_t index) const override { return real_->irq(index); }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    const auto read = [&] { return real_->region_read(index, offset, to); };
    return index == vfio::kRegionConfig ? pass(Call::config_read, read) : read();
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    const auto write = [&] { return real_->region_write(index, offset, from); };
    return index == vfio::kRegionConfig ? pass(Call::config_write, write) : write();
  }
  Result<Mapping> map_area(std::uint32_t index, const vfio::RegionArea& area) override {
    return real_->map_area(index, area);
  }
  vfio::AreaFile area_file(std::uint32_t index, const vfio::RegionArea& area) const override {
    return real_->area_file(index, area);
  }
  Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override {
    return pass(Call::set_irqs, [&] { return real_->set_irq_eventfds(index, eventfds); });
  }
  Status reset() override {
    const auto fault = plan_->next(Call::reset, id());
    if (fault == Fault::dead || fault == Fault::error) break_down(*fault);
    if (dead_ || fault) return fail(Errc::device, "reset failed on purpose");
    HANDOVER_TRY(real_->reset());
    in_error_ = log_on_ = false;
    stuck_ = kNothing;
    ++resets_;
    return {};
  }
  Status dma_map(const vfio::DmaMapping& mapping) override {
    return pass(Call::dma_map, [&] { return real_->dma_map(mapping); });
  }
  Status dma_unmap(const vfio::IovaRange& range) override {
    return pass(Call::dma_unmap, [&] { return real_->dma_unmap(range); });
  }
  vfio::MigrationProtocol* migration() override { return this; }
  std::string migration_blocker() const override { return real_->migration_blocker(); }
  vfio::DmaLog* dma_log() override { return this; }
  bool lost() const override { return real_->lost(); }
  void on_lost(std::function<void(std::string reason)> handler) override {
    real_->on_lost(std::move(handler));
  }

 private:
  static constexpr int kNothing = -1;

  // vfio::MigrationProtocol
  std::string_view protocol_name() const override { return real_->migration()->protocol_name(); }
  std::uint64_t features() const override { return real_->migration()->features(); }
  Result<vfio::DeviceState> state() override {
    return pass(Call::get_state, [&]() -> Result<vfio::DeviceState> {
      if (mute_.exchange(false)) return fail(Errc::device, "no word of its state, on purpose");
      return state_now();
    });
  }
  Status set_state(vfio::DeviceState to) override {
    std::function<void(vfio::DeviceState)> gate;
    {
      std::lock_guard lock(gate_mutex_);
      gate = gate_;
    }
    if (gate) gate(to);
    return pass(Call::set_state, [&] {
      return protocol([&](vfio::MigrationProtocol& migration) { return migration.set_state(to); });
    });
  }
  Result<vfio::StateRead> read(std::span<std::byte> buffer) override {
    return pass(Call::read, [&] {
      return protocol([&](vfio::MigrationProtocol& migration) { return migration.read(buffer); });
    });
  }
  Status write(std::span<const std::byte> data) override {
    return pass(Call::write, [&] {
      return protocol([&](vfio::MigrationProtocol& migration) { return migration.write(data); });
    });
  }
  Result<std::optional<vfio::PrecopyInfo>> precopy_info() override {
    return pass(Call::precopy_info, [&] {
      return protocol([&](vfio::MigrationProtocol& migration) { return migration.precopy_info(); });
    });
  }
  Result<std::optional<std::uint64_t>> stop_copy_size() override {
    return pass(Call::stop_copy_size, [&] {
      return protocol([&](vfio::MigrationProtocol& migration) { return migration.stop_copy_size(); });
    });
  }
  std::size_t preferred_chunk() const override { return real_->migration()->preferred_chunk(); }
  bool keeps_chunks() const override { return real_->migration()->keeps_chunks(); }

  // vfio::DmaLog
  Status start(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges) override {
    return pass(Call::log_start, [&]() -> Status {
      // As the kernel has it; the server of this project would start anew.
      if (log_on_) return fail(Errc::device, "it keeps a log already");
      HANDOVER_TRY(real_->dma_log()->start(page_size, ranges));
      log_on_ = true;
      return {};
    });
  }
  Result<std::vector<std::byte>> report(const vfio::IovaRange& range) override {
    return pass(Call::log_report, [&] { return real_->dma_log()->report(range); });
  }
  Status stop() override {
    return pass(Call::log_stop, [&] {
      log_on_ = false;
      return real_->dma_log()->stop();
    });
  }
  std::uint64_t page_size() const override { return real_->dma_log()->page_size(); }

  // In ERROR a device does nothing but say so.  Its registers and mappings are the bus's business.
  bool answers(Call call) const {
    if (!in_error_) return true;
    return call == Call::get_state || call == Call::config_read || call == Call::config_write ||
           call == Call::dma_map || call == Call::dma_unmap;
  }
  // A device breaks down on any thread's call, while another reads its state.
  template <class Work>
  auto protocol(Work work) -> decltype(work(std::declval<vfio::MigrationProtocol&>())) {
    std::lock_guard lock(protocol_mutex_);
    return work(*real_->migration());
  }
  void break_down(Fault fault) {
    dead_ = fault == Fault::dead;
    if (!in_error_)
      (void)protocol(
          [](vfio::MigrationProtocol& migration) { return migration.set_state(vfio::DeviceState::stop); });
    in_error_ = true;
  }
  template <class Work>
  auto pass(Call call, Work work) -> decltype(work()) {
    const auto fault = plan_->next(call, id());
    if (!answers(call)) return fail(Errc::device, "{} in the error state", to_string(call));
    if (!fault) {
      if (stuck_ == static_cast<int>(call))
        return fail(Errc::device, "{} is stuck on purpose", to_string(call));
      return work();
    }
    switch (*fault) {
      case Fault::refused:
        break;
      case Fault::done:
        (void)work();
        break;
      case Fault::mute:
        mute_ = true;
        break;
      case Fault::stuck:
        stuck_ = static_cast<int>(call);
        break;
      case Fault::error:
      case Fault::dead:
        break_down(*fault);
    }
    return fail(Errc::device, "{} failed on purpose ({})", to_string(call), to_string(*fault));
  }

  std::unique_ptr<vfio::Device> real_;
  std::shared_ptr<FaultPlan> plan_;
  std::atomic<bool> in_error_{false};
  std::atomic<bool> dead_{false};
  std::atomic<bool> mute_{false};
  std::atomic<bool> log_on_{false};
  std::atomic<std::uint64_t> resets_{0};
  std::atomic<int> stuck_{kNothing};
  mutable std::mutex protocol_mutex_;
  std::mutex gate_mutex_;
  std::function<void(vfio::DeviceState)> gate_;
};

}  // namespace handover::test
