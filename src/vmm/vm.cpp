#include "handover/vmm/vm.h"

#include <algorithm>

#include "handover/base/log.h"
#include "handover/memory/dirty_source.h"
#include "vmm/address_space.h"
#include "vmm/attached_device.h"
#include "vmm/machine_identity.h"
#include "vmm/pci_bus.h"
#include "vmm/synthetic/vcpu.h"

namespace handover::vmm {

// Members in the order of making; taken down from the last to the first, by ~Impl.
struct Vm::Impl {
  explicit Impl(VmConfig wanted) : config(std::move(wanted)) {}
  ~Impl();

  Status make(const CancelToken& cancel);
  Status attach_devices(const CancelToken& cancel);
  void block_mixed_p2p();
  void make_machine();

  const VmConfig config;
  EventLoop loop{"machine"};
  EventLoop interrupts{"interrupts"};
  Blockers blockers;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<AddressSpace> bus;
  std::unique_ptr<PciBus> pci;
  std::unique_ptr<synthetic::SyntheticVcpu> vcpu;
  std::vector<std::unique_ptr<AttachedDevice>> devices;
  Blockers::Hold p2p_hold;
  std::unique_ptr<ProcessWrites> process_writes;
  std::unique_ptr<RamMigration> ram;
  std::unique_ptr<MachineIdentity> identity;
  std::unique_ptr<Machine> machine;
};

Status Vm::Impl::make(const CancelToken& cancel) {
  HANDOVER_TRY(config.check());
  HANDOVER_ASSIGN(memory, GuestMemory::create(config.memory, config.huge_pages));
  if (config.prealloc) HANDOVER_TRY(memory->allocate());
  bus = std::make_unique<AddressSpace>(*memory);
  pci = std::make_unique<PciBus>(*bus);
  HANDOVER_ASSIGN(vcpu, synthetic::SyntheticVcpu::create(0, *memory, *bus, config.guest,
                                                         static_cast<std::uint32_t>(config.devices.size())));
  loop.start_thread();
  interrupts.start_thread();
  HANDOVER_TRY(attach_devices(cancel));
  block_mixed_p2p();
  loop.call([this] { make_machine(); });
  return {};
}

Status Vm::Impl::attach_devices(const CancelToken& cancel) {
  for (const auto& options : config.devices) {
    HANDOVER_ASSIGN(auto device, config.connect(options, *memory, cancel));
    const auto slot = static_cast<std::uint32_t>(devices.size() + 1);
    HANDOVER_ASSIGN(auto attached, AttachedDevice::attach(std::move(device), slot,
                                                          {*bus, *memory, *vcpu, interrupts}, blockers));
    pci->plug(attached->pci());
    devices.push_back(std::move(attached));
  }
  return {};
}

// Devices are stopped one after the other.  Without a state in which it starts no DMA to its peers, one that
// still runs may write into one that has stopped; a single device has no peer.
void Vm::Impl::block_mixed_p2p() {
  if (devices.size() < 2) return;
  std::string without;
  for (const auto& device : devices)
    if (device->migration_features() != 0 && (device->migration_features() & vfio::kMigrationP2p) == 0)
      without += fmt::format("{}`{}`", without.empty() ? "" : ", ", device->pci().device().id());
  if (without.empty()) return;
  std::string reason = fmt::format(
      "device {} has no P2P state, which each of several devices needs to be migrated together", without);
  log::warn("the machine cannot be migrated: {}", reason);
  p2p_hold = blockers.add(std::move(reason));
}

void Vm::Impl::make_machine() {
  machine =
      std::make_unique<Machine>(loop, *memory, config.incoming ? RunState::inmigrate : RunState::prelaunch);
  process_writes = std::make_unique<ProcessWrites>(*memory);
  ram = std::make_unique<RamMigration>(*memory);
  ram->add_dirty_source(*process_writes);

  MachineFacts facts;
  facts.ram_size = memory->size();
  facts.vcpus = 1;
  facts.device_count = static_cast<std::uint32_t>(devices.size());
  for (const auto& device : devices)
    facts.devices.push_back(MachineIdentity::of(device->pci()));
  identity = std::make_unique<MachineIdentity>(std::move(facts));

  machine->add_vcpu(*vcpu);
  machine->add_migratable(*identity);
  machine->add_migratable(*ram);
  machine->add_migratable(vcpu->state());
  for (const auto& device : devices) {
    ram->add_dirty_source(device->dirty_source());
    machine->add_listener(device->migration());
    machine->add_listener(device->pci());
    machine->add_migratable(device->migration());
  }
}

Vm::Impl::~Impl() {
  if (machine) {
    loop.call([this] {
      if (machine->running())
        if (auto stopped = machine->stop(RunState::shutdown); !stopped)
          log::warn("while taking the machine down: {}", stopped.error().to_string());
      for (const auto& device : devices) {
        machine->remove_migratable(device->migration());
        machine->remove_listener(device->pci());
        machine->remove_listener(device->migration());
      }
      machine.reset();
    });
  }
  identity.reset();
  ram.reset();
  process_writes.reset();
  p2p_hold.release();
  for (const auto& device : devices)
    pci->unplug(device->pci());
  while (!devices.empty())
    devices.pop_back();
  vcpu.reset();
}

Vm::Vm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}
Vm::~Vm() = default;

Result<std::unique_ptr<Vm>> Vm::create(const VmConfig& config, const CancelToken& cancel) {
  auto impl = std::make_unique<Impl>(config);
  HANDOVER_TRY(impl->make(cancel));
  return std::unique_ptr<Vm>(new Vm(std::move(impl)));
}

const VmConfig& Vm::config() const {
  return impl_->config;
}
EventLoop& Vm::loop() {
  return impl_->loop;
}
Machine& Vm::machine() {
  return *impl_->machine;
}
RamMigration& Vm::ram() {
  return *impl_->ram;
}
Blockers& Vm::blockers() {
  return impl_->blockers;
}

GuestReport Vm::guest() const {
  return impl_->vcpu->report();
}

std::vector<DeviceStatus> Vm::devices() const {
  std::vector<DeviceStatus> all;
  for (const auto& device : impl_->devices)
    all.push_back(device->status());
  return all;
}

Result<VerifyReport> Vm::verify(std::chrono::milliseconds timeout, const CancelToken& cancel) {
  if (impl_->machine->state() == RunState::inmigrate)
    return fail(Errc::state, "the machine waits for its state; there is nothing to verify yet");
  return impl_->vcpu->verify(timeout, cancel);
}

}  // namespace handover::vmm
