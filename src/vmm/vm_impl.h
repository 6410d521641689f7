#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "handover/memory/dirty_source.h"
#include "handover/vmm/vm.h"
#include "vmm/address_space.h"
#include "vmm/attached_device.h"
#include "vmm/iommu_unit.h"
#include "vmm/machine_identity.h"
#include "vmm/pci_bus.h"
#include "vmm/peer_mappings.h"
#include "vmm/synthetic/vcpu.h"

namespace handover::vmm {

/// Members in the order of making; taken down from the last to the first, by the destructor.
struct Vm::Impl {
  explicit Impl(VmConfig wanted) : config(std::move(wanted)) {}
  ~Impl();

  Status make(const CancelToken& cancel);
  void make_machine();
  MachineFacts facts() const;

  // devices.cpp: how they come and go.
  Status attach_devices(const CancelToken& cancel);
  Result<std::unique_ptr<AttachedDevice>> attach(const DeviceOptions& options, std::uint32_t slot,
                                                 const CancelToken& cancel);
  Result<std::uint32_t> choose_slot(const DeviceOptions& options) const;
  Status check_may_change(const char* what) const;
  /// On the machine's thread, at a safe point.
  Status put_in(std::unique_ptr<AttachedDevice>& device);
  std::unique_ptr<AttachedDevice> take_out(const std::string& id);
  void enlist(AttachedDevice& device);
  void delist(AttachedDevice& device);
  void block_mixed_p2p();
  /// Adds what stands against its migration beside the others'.
  DeviceStatus judged(DeviceStatus status, const AttachedDevice& device) const;
  bool has(const std::string& id) const;

  const VmConfig config;
  EventLoop loop{"machine"};
  EventLoop interrupts{"interrupts"};
  Blockers blockers;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<AddressSpace> bus;
  std::unique_ptr<PeerMappings> peers;  // null: p2p is off
  std::unique_ptr<PciBus> pci;
  std::unique_ptr<vfio::VirtualIommu> iommu;  // null: the guest has none
  std::unique_ptr<IommuUnit> iommu_unit;
  std::unique_ptr<synthetic::SyntheticVcpu> vcpu;
  mutable std::mutex devices_mutex;  // leaf: the list; asking a device for its status does not wait
  std::vector<std::unique_ptr<AttachedDevice>> devices;  // by slot
  Blockers::Hold p2p_hold;
  std::unique_ptr<ProcessWrites> process_writes;
  std::unique_ptr<RamMigration> ram;
  std::unique_ptr<MachineIdentity> identity;
  std::unique_ptr<Machine> machine;
};

}  // namespace handover::vmm
