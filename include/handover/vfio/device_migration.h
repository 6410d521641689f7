#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "handover/machine/machine.h"
#include "handover/memory/dirty_source.h"
#include "handover/stream/migratable.h"
#include "handover/vfio/device.h"
#include "handover/vfio/device_config.h"

namespace handover::vfio {

/// Moves one VFIO device: section `<path>/vfio`, live and full, in QEMU's layout.
///
/// It is the device's Migratable and its run-state listener (mission A3): the migration thread drives the
/// data, the machine's thread the states that follow the machine.  A person may stop the machine while the
/// migration thread reads the device: the device answers one request after the other, and both orders are
/// sound.
///
/// A failed transition is answered by the recovery ladder: back to the state named for recovery, else
/// reset, else the device is reported dead; it is never left in ERROR silently.
class DeviceMigration final : public Migratable, public RunStateListener {
 public:
  /// `path` is the device's place, such as `0000:00:01.0`.  All references outlive this object.
  DeviceMigration(Device& device, DeviceConfig& config, std::string path);
  ~DeviceMigration() override;

  // Migratable
  std::string section_name() const override { return path_ + "/vfio"; }
  std::string display_name() const override { return device_.id(); }
  std::uint32_t version_id() const override;
  bool is_live() const override { return true; }
  bool has_state() const override { return true; }
  Status prepare() override;
  Status save_setup(StreamWriter& out, const SaveOptions& options) override;
  Result<Pending> pending(bool exact) override;
  Result<Iterated> save_iterate(StreamWriter& out, const IterateBudget& budget) override;
  Status save_complete(StreamWriter& out) override;
  Status save_state(StreamWriter& out) override;
  ItemCounters counters() const override;
  Status load_setup(const LoadOptions& options) override;
  Status load_live(StreamReader& in, std::uint32_t version) override;
  Status load_state(StreamReader& in, std::uint32_t version) override;
  Status load_finish() override;
  void cleanup() override;

  // RunStateListener
  std::string name() const override { return device_.id(); }
  Status prepare(RunState from, RunState to) override;
  Status change(RunState from, RunState to) override;

  /// As last seen; any thread.
  DeviceState last_state() const { return state_.load(std::memory_order_relaxed); }

 private:
  Status enter(DeviceState to, DeviceState recovery);
  Status recover(DeviceState recovery, Error cause);
  Result<StateRead> send_chunk(StreamWriter& out);
  Status load_data(StreamReader& in, std::uint64_t bytes);
  std::uint64_t features() const;
  bool has(std::uint64_t feature) const { return (features() & feature) != 0; }

  Device& device_;
  DeviceConfig& config_;
  std::string path_;
  std::atomic<DeviceState> state_{DeviceState::running};
  std::atomic<std::uint64_t> bytes_{0};
  std::unique_ptr<std::byte[]> buffer_;
  std::uint64_t initial_bytes_ = 0;
  std::uint64_t precopy_bytes_ = 0;
  std::uint64_t stop_copy_bytes_ = 0;
  std::atomic<bool> saving_{false};
  bool loading_ = false;
  bool config_loaded_ = false;
};

/// What a device wrote by DMA, from its own log; without a log, every page it can write is dirty at every
/// sync.
class DeviceDirtySource final : public DirtySource {
 public:
  DeviceDirtySource(Device& device, GuestMemory& memory);
  std::string name() const override;
  Status start() override;
  Status sync(DirtyMemory& to) override;
  void stop() override;

 private:
  Device& device_;
  GuestMemory& memory_;
  bool started_ = false;
};

}  // namespace handover::vfio
