#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/event_loop.h"
#include "handover/base/result.h"
#include "handover/machine/machine.h"
#include "handover/memory/ram_migration.h"
#include "handover/migration/blockers.h"
#include "handover/vmm/guest_report.h"
#include "handover/vmm/vm_config.h"

namespace handover::vmm {

/// A device of a machine, for people and for management.
struct DeviceStatus {
  std::string id;
  std::uint32_t slot = 0;
  std::string path;  ///< `0000:00:01.0`
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  bool lost = false;
  bool migratable = false;
  std::string blocker;                   ///< why it is not
  std::string protocol;                  ///< of migration: `v2`, `v1` or `none`
  std::uint64_t migration_features = 0;  ///< vfio::kMigration... bits
  bool pre_copy = false;                 ///< of these: it sends state while it runs
  bool p2p = false;                      ///< it can be kept from its peers' memory before it stops
  bool dma_log = false;                  ///< it logs its DMA
  /// How it is learnt what it wrote; during and after a migration what was in use.
  vfio::TrackerChoice dirty_tracking;
  /// What the guest's IOMMU lets it reach; empty: the guest has none.
  std::optional<std::uint64_t> dma_mappings;
  std::uint64_t dma_faults = 0;  ///< its accesses that came here and reached nothing
  std::string state;             ///< of migration, as last seen
  /// Its estimate of the bytes that it would send stopped; empty if it was not asked (Vm::ask_devices) or
  /// cannot say.
  std::optional<std::uint64_t> stop_copy_size;
};

/// A machine put together from a configuration: memory, a synthetic guest, VFIO and vfio-user devices on a
/// PCI bus, and everything of it that migrates, in the order of the stream.
///
/// It brings two threads of its own: the machine's loop and one that passes interrupts on.  The machine is
/// made in prelaunch or inmigrate; whoever owns the Vm starts it: `vm.loop().call([&] { return
/// vm.machine().start(); })`.
///
/// Devices reach each other's memory by DMA if the configuration says so (p2p).
///
/// A device whose server dies is lost: the guest notices and goes on without it, and the machine cannot
/// migrate any more (blockers()).  The same with devices that cannot migrate at all, and, with p2p, with
/// several devices of which one has no P2P state (mission C6).
///
/// create() and the destructor run on any thread but the loop's, as does verify(); migrations of the machine
/// have ended before it is destroyed.  The destructor stops the guest and joins every thread.
/// plug(), unplug() and ask_devices() run on any thread but the loop's, one of them at a time, while no
/// migration of the machine is under way and none starts.
class Vm {
 public:
  /// Connects to the devices (which may wait: `cancel` ends that) and puts the machine together.
  static Result<std::unique_ptr<Vm>> create(const VmConfig& config, const CancelToken& cancel = {});
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  /// As it was made; devices may have come and gone since (devices()).
  const VmConfig& config() const;
  /// The machine's loop; it runs.
  EventLoop& loop();
  Machine& machine();
  RamMigration& ram();
  Blockers& blockers();

  /// Any thread.
  GuestReport guest() const;
  std::vector<DeviceStatus> devices() const;
  /// The same, and each device is asked for its figures; takes a few messages a device.
  std::vector<DeviceStatus> ask_devices() const;

  /// Connects to a device and puts it into a running, paused or fresh machine (also one that still waits for
  /// its migration).  `cancel` ends the wait for its server; once plug() has returned it does nothing more.
  /// The synthetic guest drives the devices that it finds at its boot: it ignores what comes later, which is
  /// migrated all the same.
  Status plug(const DeviceOptions& options, const CancelToken& cancel = {});
  /// Takes a device out; nothing of it is left behind (mission A6).  A guest that drives it finds that it
  /// reads as all ones and goes on without it.
  Status unplug(const std::string& id);

  /// Lets the guest check all of its memory and all that its devices hold; if the machine stands still, its
  /// memory alone.  Errc::mismatch: something is wrong, and the sentence says where.
  Result<VerifyReport> verify(std::chrono::milliseconds timeout, const CancelToken& cancel = {});

 private:
  struct Impl;
  explicit Vm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover::vmm
