#include "handover/vmm/vm.h"

#include <algorithm>

#include "handover/base/log.h"
#include "vmm/vm_impl.h"

namespace handover::vmm {

Status Vm::Impl::make(const CancelToken& cancel) {
  HANDOVER_TRY(config.check());
  HANDOVER_ASSIGN(memory, GuestMemory::create(config.memory, config.huge_pages));
  if (config.prealloc) HANDOVER_TRY(memory->allocate());
  bus = std::make_unique<AddressSpace>(*memory);
  if (config.peer_to_peer()) peers = std::make_unique<PeerMappings>(*memory);
  pci = std::make_unique<PciBus>(*bus);
  if (config.viommu) {
    iommu = std::make_unique<vfio::VirtualIommu>(*memory, vfio::VirtualIommu::Options{});
    iommu_unit = std::make_unique<IommuUnit>(*memory, *iommu);
    bus->add_window(iommu_unit.get(), iommu::kBase, iommu::kSize, *iommu_unit);
  }
  HANDOVER_ASSIGN(vcpu, synthetic::SyntheticVcpu::create(
                            0, *memory, *bus, config.guest, static_cast<std::uint32_t>(config.devices.size()),
                            {.p2p = config.peer_to_peer(), .viommu = config.viommu}));
  loop.start_thread();
  interrupts.start_thread();
  HANDOVER_TRY(attach_devices(cancel));
  loop.call([this] { make_machine(); });
  block_mixed_p2p();
  return {};
}

MachineFacts Vm::Impl::facts() const {
  MachineFacts facts;
  facts.ram_size = memory->size();
  facts.vcpus = 1;
  facts.p2p = config.peer_to_peer();
  facts.viommu = config.viommu;
  std::lock_guard lock(devices_mutex);
  for (const auto& device : devices)
    facts.devices.push_back(device->identity());
  facts.device_count = static_cast<std::uint32_t>(facts.devices.size());
  return facts;
}

void Vm::Impl::make_machine() {
  machine =
      std::make_unique<Machine>(loop, *memory, config.incoming ? RunState::inmigrate : RunState::prelaunch);
  process_writes = std::make_unique<ProcessWrites>(*memory);
  ram = std::make_unique<RamMigration>(*memory);
  ram->add_dirty_source(*process_writes);
  identity = std::make_unique<MachineIdentity>([this] { return facts(); });

  machine->add_vcpu(*vcpu);
  machine->add_migratable(*identity);
  machine->add_migratable(*ram);
  machine->add_migratable(vcpu->state());
  if (iommu_unit) machine->add_migratable(*iommu_unit);
  if (peers) machine->add_listener(*peers);
  for (const auto& device : devices)
    enlist(*device);
}

Vm::Impl::~Impl() {
  if (machine) {
    loop.call([this] {
      if (machine->running())
        if (auto stopped = machine->stop(RunState::shutdown); !stopped)
          log::warn("while taking the machine down: {}", stopped.error().to_string());
      for (const auto& device : devices)
        delist(*device);
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
  std::lock_guard lock(impl_->devices_mutex);
  for (const auto& device : impl_->devices)
    all.push_back(impl_->judged(device->status(), *device));
  return all;
}

std::vector<DeviceStatus> Vm::ask_devices() const {
  // Without the lock: the caller sees to it that none comes or goes.
  std::vector<DeviceStatus> all;
  for (const auto& device : impl_->devices)
    all.push_back(impl_->judged(device->ask(), *device));
  return all;
}

Result<VerifyReport> Vm::verify(std::chrono::milliseconds timeout, const CancelToken& cancel) {
  if (impl_->machine->state() == RunState::inmigrate)
    return fail(Errc::state, "the machine waits for its state; there is nothing to verify yet");
  return impl_->vcpu->verify(timeout, cancel);
}

}  // namespace handover::vmm
