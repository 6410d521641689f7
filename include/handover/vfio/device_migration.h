#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "handover/machine/machine.h"
#include "handover/memory/dirty_source.h"
#include "handover/stream/migratable.h"
#include "handover/vfio/device.h"
#include "handover/vfio/device_config.h"

namespace handover::vfio {

class PacketLoader;

/// Moves one VFIO device: section `<path>/vfio`, live and full, in QEMU's layout.
///
/// It is the device's Migratable and its run-state listener (mission A3): the migration thread drives the
/// data, the machine's thread the states that follow the machine.  A person may stop the machine while the
/// migration thread works with the device: one request is made after the other, and for what it asks next
/// each looks again where the other has left the device.
///
/// Its state travels in the stream, or, with SaveOptions::parallel, in packets over any channel; a
/// destination takes either.  Packets are loaded by a thread of the device's own from the switchover on, and
/// that thread also loads the configuration and takes the device to STOP, where it judges what it was given.
///
/// A failed transition is answered by the recovery ladder: back to the state named for recovery, else
/// reset, else the device is dead; it is never left in ERROR silently.  After a migration that did not happen
/// the device is asked where it is, and goes back to where the machine is, over the same ladder.  While it is
/// dead the machine must not run (fit()); a start, or a load, tries the reset once more.
class DeviceMigration : public Migratable, public RunStateListener {
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
  bool has_parallel_state() const override { return true; }
  Status save_parallel(PacketSink& to, const CancelToken& cancel) override;
  std::uint64_t acks_wanted() const override { return acks_wanted_; }
  Status save_state(StreamWriter& out) override;
  ItemCounters counters() const override;
  Status load_setup(const LoadOptions& options) override;
  Status load_live(StreamReader& in, std::uint32_t version) override;
  Status load_state(StreamReader& in, std::uint32_t version) override;
  std::size_t largest_packet() const override;
  Status load_packet(Packet packet) override;
  Status switchover_start() override;
  Status load_finish() override;
  void cleanup() override;

  // RunStateListener
  std::string name() const override { return device_.id(); }
  Status prepare(RunState from, RunState to) override;
  Status change(RunState from, RunState to) override;
  /// Fails while the device is dead.  Any thread.
  Status fit() const override;

  /// The state that the device was opened in, if that is not running.  Before anything else.
  void found_in(DeviceState state) { state_.store(state, std::memory_order_relaxed); }
  /// Moves the device as if it had no pre-copy.  Before a migration.
  void leave_out_precopy() { left_out_ = kMigrationPreCopy; }
  /// Told after every change of state, on the thread that asked for it: where the device was and is, and how
  /// long that took.  Set before anything else.
  using StateObserver = std::function<void(DeviceState from, DeviceState to, std::chrono::nanoseconds took)>;
  void observe_states(StateObserver observer) { state_observer_ = std::move(observer); }

  /// As last seen; any thread.
  DeviceState last_state() const { return state_.load(std::memory_order_relaxed); }

 private:
  // States.  Under device_mutex_.
  Status enter(DeviceState to, DeviceState recovery);
  Status recover(DeviceState recovery, Error cause);
  Status reset(DeviceState after, const Error& cause);
  Status revive();
  Status start(DeviceState to, RunState from);
  Status leave_stop_copy();
  Status leave_migration();
  void arrive(DeviceState at, std::chrono::steady_clock::time_point asked);

  // Source.
  Status enter_stop_copy();
  Result<StateRead> read_state(DeviceState in, std::span<std::byte> buffer);
  Result<StateRead> send_chunk(DeviceState in, StreamWriter& out);
  Status send_config(PacketSink& to, std::uint32_t index);
  std::size_t chunk_size() const;
  void ask_precopy();

  // Destination.
  std::size_t largest_record() const;
  Status load_record(StreamReader& in);
  Status load_data(std::span<const std::byte> data);
  Status load_config(std::span<const std::byte> packet);
  Status load_config_body(StreamReader& in);
  Status settle();
  Status leave_packets();
  void report_progress();

  std::uint64_t features() const;
  bool has(std::uint64_t feature) const { return (features() & feature) != 0; }

  // Held for one request to the device and the decision that leads to it; the machine's and the migration's
  // threads take turns.  Nothing but the device, and who watches its states, is called under it.
  std::mutex device_mutex_;
  mutable std::mutex dead_mutex_;  // leaf
  std::string dead_;               // why the device is; empty: it is not
  std::uint64_t resets_ = 0;       // that a failure made necessary; under device_mutex_
  bool migrating_ = false;         // from the first check or set-up to the hand-over; under device_mutex_

  Device& device_;
  DeviceConfig& config_;
  std::string path_;
  std::atomic<DeviceState> state_{DeviceState::running};
  std::uint64_t left_out_ = 0;  // features that the device has and is not to use
  StateObserver state_observer_;
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> queued_peak_{0};
  std::unique_ptr<std::byte[]> buffer_;

  // Source.  The migration thread's; save_parallel() runs when that waits.
  SaveOptions save_options_;
  std::uint64_t initial_bytes_ = 0;
  std::uint64_t precopy_bytes_ = 0;
  std::uint64_t stop_copy_bytes_ = 0;
  bool size_unknown_ = false;
  bool ack_due_ = false;
  std::uint64_t acks_wanted_ = 0;
  std::atomic<bool> saving_{false};

  // Destination.  The load thread's, then the packet loader's, then the load thread's again.
  LoadOptions load_options_;
  LoadProgress progress_;
  std::unique_ptr<PacketLoader> packets_;
  bool loading_ = false;
  bool switched_over_ = false;
  bool in_stream_ = false;  // after the switchover, instead of packets
  bool settled_ = false;    // config loaded, device in STOP
  bool config_loaded_ = false;
};

}  // namespace handover::vfio
