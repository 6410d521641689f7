#pragma once

#include <unistd.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "devices/accelerator/accelerator.h"
#include "handover/check/check.h"
#include "handover/vfio_user/client.h"
#include "handover/vfio_user/server.h"
#include "support/temp_folder.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::StateRead;
using Kind = vfio::StateRead::Kind;
using Bytes = std::vector<std::byte>;

/// Another device model with other migration features.
class WithFeatures final : public vfio_user::DeviceModel {
 public:
  WithFeatures(vfio_user::DeviceModel& model, std::uint64_t features) : model_(model), spec_(model.spec()) {
    spec_.migration_features = features;
  }

  const vfio_user::DeviceSpec& spec() const override { return spec_; }
  void attach(vfio_user::DeviceBus& bus) override { model_.attach(bus); }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    return model_.region_read(index, offset, to);
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    return model_.region_write(index, offset, from);
  }
  void reset(Completion done) override { model_.reset(std::move(done)); }
  void transition(DeviceState from, DeviceState to, Completion done) override {
    model_.transition(from, to, std::move(done));
  }
  Result<std::size_t> migration_read(std::span<std::byte> to) override { return model_.migration_read(to); }
  Status migration_write(std::span<const std::byte> from) override { return model_.migration_write(from); }
  std::optional<vfio::PrecopyInfo> precopy_info() const override { return model_.precopy_info(); }
  std::optional<std::uint64_t> stop_copy_size() const override { return model_.stop_copy_size(); }
  void dma_unmapping(Iova start, std::uint64_t size, Completion done) override {
    model_.dma_unmapping(start, size, std::move(done));
  }
  void disconnected(Completion done) override { model_.disconnected(std::move(done)); }

 private:
  vfio_user::DeviceModel& model_;
  vfio_user::DeviceSpec spec_;
};

/// What a device does instead of the right thing.  Empty: the right thing.
struct Hooks {
  std::function<std::uint64_t()> features;
  std::function<Result<DeviceState>()> state;
  std::function<Status(DeviceState)> set_state;
  std::function<Result<StateRead>(std::span<std::byte>)> read;
  std::function<Status(std::span<const std::byte>)> write;
  std::function<Result<std::optional<vfio::PrecopyInfo>>()> precopy_info;
  std::function<Result<std::optional<std::uint64_t>>()> stop_copy_size;
  std::function<Status()> reset;
  std::function<Status(std::uint64_t, std::span<const vfio::IovaRange>)> log_start;
  std::function<Result<Bytes>(const vfio::IovaRange&)> log_report;
  std::function<Status()> log_stop;
  std::function<std::uint64_t()> log_page_size;
};

/// A served accelerator as its client sees it, with defects that no server lets through.
class DefectiveDevice final : public vfio::Device, public vfio::MigrationProtocol, public vfio::DmaLog {
 public:
  explicit DefectiveDevice(vfio::Device& device) : real(device) {}

  vfio::Device& real;
  vfio::MigrationProtocol& protocol() { return *real.migration(); }
  vfio::DmaLog& log() { return *real.dma_log(); }
  /// As the real device says.
  DeviceState now() { return protocol().state().value_or(DeviceState::error); }
  Hooks hooks;
  bool chunks = false;  ///< its pieces are part of its protocol, as v1's are
  bool gone = false;    ///< lost, whatever the real one is

  const std::string& id() const override { return real.id(); }
  const vfio::DeviceInfo& info() const override { return real.info(); }
  const vfio::RegionInfo& region(std::uint32_t index) const override { return real.region(index); }
  const vfio::IrqInfo& irq(std::uint32_t index) const override { return real.irq(index); }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    return real.region_read(index, offset, to);
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    return real.region_write(index, offset, from);
  }
  Result<Mapping> map_area(std::uint32_t index, const vfio::RegionArea& area) override {
    return real.map_area(index, area);
  }
  Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override {
    return real.set_irq_eventfds(index, eventfds);
  }
  Status reset() override { return hooks.reset ? hooks.reset() : real.reset(); }
  Status dma_map(const vfio::DmaMapping& mapping) override { return real.dma_map(mapping); }
  Status dma_unmap(const vfio::IovaRange& range) override { return real.dma_unmap(range); }
  vfio::MigrationProtocol* migration() override { return this; }
  std::string migration_blocker() const override { return real.migration_blocker(); }
  vfio::DmaLog* dma_log() override { return this; }
  bool lost() const override { return gone || real.lost(); }
  void on_lost(std::function<void(std::string reason)> handler) override { real.on_lost(std::move(handler)); }

  std::uint64_t features() const override {
    return hooks.features ? hooks.features() : real.migration()->features();
  }
  Result<DeviceState> state() override { return hooks.state ? hooks.state() : protocol().state(); }
  Status set_state(DeviceState to) override {
    return hooks.set_state ? hooks.set_state(to) : protocol().set_state(to);
  }
  Result<StateRead> read(std::span<std::byte> buffer) override {
    return hooks.read ? hooks.read(buffer) : protocol().read(buffer);
  }
  Status write(std::span<const std::byte> data) override {
    return hooks.write ? hooks.write(data) : protocol().write(data);
  }
  Result<std::optional<vfio::PrecopyInfo>> precopy_info() override {
    return hooks.precopy_info ? hooks.precopy_info() : protocol().precopy_info();
  }
  Result<std::optional<std::uint64_t>> stop_copy_size() override {
    return hooks.stop_copy_size ? hooks.stop_copy_size() : protocol().stop_copy_size();
  }
  std::size_t preferred_chunk() const override { return real.migration()->preferred_chunk(); }

  bool keeps_chunks() const override { return chunks || real.migration()->keeps_chunks(); }

  Status start(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges) override {
    return hooks.log_start ? hooks.log_start(page_size, ranges) : log().start(page_size, ranges);
  }
  Result<Bytes> report(const vfio::IovaRange& range) override {
    return hooks.log_report ? hooks.log_report(range) : log().report(range);
  }
  Status stop() override { return hooks.log_stop ? hooks.log_stop() : log().stop(); }
  std::uint64_t page_size() const override {
    return hooks.log_page_size ? hooks.log_page_size() : real.dma_log()->page_size();
  }
};

/// An accelerator on a server of this process, its client, and the place for defects between the client and
/// whoever looks.
class CheckedDevice {
 public:
  explicit CheckedDevice(std::uint64_t features = 7) {
    model_ = std::move(*accelerator::Accelerator::create({.memory_size = 1 * MiB}));
    shown_ = std::make_unique<WithFeatures>(*model_, features);
    loop_.start_thread();
    const auto path = folder_ / "device.sock";
    server_ = std::move(*vfio_user::Server::create(loop_, *shown_, {path}));
    memory = std::move(*GuestMemory::create(1 * MiB));
    real_ = std::move(*vfio_user::connect({"device", path, std::chrono::minutes(2)}, *memory, {}));
    device = std::make_unique<DefectiveDevice>(*real_);
  }
  ~CheckedDevice() {
    device.reset();
    real_.reset();
    server_.reset();
  }

  Report run(const Options& options, const CancelToken& cancel = {}, const Progress& progress = {}) {
    return std::move(*check::run(*device, *memory, options, cancel, progress));
  }
  void kill_server() { server_.reset(); }

  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<DefectiveDevice> device;

 private:
  test::TempFolder folder_;
  std::unique_ptr<accelerator::Accelerator> model_;
  std::unique_ptr<WithFeatures> shown_;
  EventLoop loop_{"server"};
  std::unique_ptr<vfio_user::Server> server_;
  std::unique_ptr<vfio::Device> real_;
};

inline const Entry* find_entry(const Report& report, const std::string& id) {
  for (const auto& entry : report.entries)
    if (entry.check.id == id) return &entry;
  return nullptr;
}

/// The ids with the verdict, with their reasons, for messages.
inline std::vector<std::string> with_verdict(const Report& report, Verdict verdict) {
  std::vector<std::string> ids;
  for (const auto& entry : report.entries)
    if (entry.finding.verdict == verdict) ids.push_back(entry.check.id + ": " + entry.finding.why);
  return ids;
}

}  // namespace handover::check
