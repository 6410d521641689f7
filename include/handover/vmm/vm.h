#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
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
  std::uint64_t migration_features = 0;  ///< vfio::kMigration... bits
  bool dma_log = false;  ///< it logs its DMA; otherwise all memory counts as dirty at every sync
  std::string state;     ///< of migration, as last seen
};

/// A machine put together from a configuration: memory, a synthetic guest, vfio-user devices on a PCI bus,
/// and everything of it that migrates, in the order of the stream.
///
/// It brings two threads of its own: the machine's loop and one that passes interrupts on.  The machine is
/// made in prelaunch or inmigrate; whoever owns the Vm starts it: `vm.loop().call([&] { return
/// vm.machine().start(); })`.
///
/// A device whose server dies is lost: the guest notices and goes on without it, and the machine cannot
/// migrate any more (blockers()).  The same with devices that cannot migrate at all, and with several devices
/// of which one has no P2P state (mission C6).
///
/// create() and the destructor run on any thread but the loop's, as does verify(); migrations of the machine
/// have ended before it is destroyed.  The destructor stops the guest and joins every thread.
class Vm {
 public:
  /// Connects to the devices (which may wait: `cancel` ends that) and puts the machine together.
  static Result<std::unique_ptr<Vm>> create(const VmConfig& config, const CancelToken& cancel = {});
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  const VmConfig& config() const;
  /// The machine's loop; it runs.
  EventLoop& loop();
  Machine& machine();
  RamMigration& ram();
  Blockers& blockers();

  /// Any thread.
  GuestReport guest() const;
  std::vector<DeviceStatus> devices() const;
  /// Lets the guest check all of its memory and all that its devices hold; if the machine stands still, its
  /// memory alone.  Errc::mismatch: something is wrong, and the sentence says where.
  Result<VerifyReport> verify(std::chrono::milliseconds timeout, const CancelToken& cancel = {});

 private:
  struct Impl;
  explicit Vm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover::vmm
