// How devices come into a machine and leave it, at its start and later.

#include <algorithm>
#include <set>

#include "handover/base/log.h"
#include "vmm/vm_impl.h"

namespace handover::vmm {

bool Vm::Impl::has(const std::string& id) const {
  return std::ranges::any_of(devices, [&](const auto& device) { return device->id() == id; });
}

Result<std::uint32_t> Vm::Impl::choose_slot(const DeviceOptions& options) const {
  std::set<std::uint32_t> taken;
  for (const auto& device : devices)
    taken.insert(device->identity().slot);
  if (options.slot != 0) {
    if (taken.contains(options.slot))
      return fail(Errc::state, "device `{}`: PCI slot {} is taken", options.id, options.slot);
    return options.slot;
  }
  // At the start: what later devices ask for by number is theirs.
  if (!machine)
    for (const auto& other : config.devices)
      taken.insert(other.slot);
  for (std::uint32_t slot = 1; slot <= kMaxDevices; ++slot)
    if (!taken.contains(slot)) return slot;
  return fail(Errc::limit, "device `{}`: all {} PCI slots are taken", options.id, kMaxDevices);
}

Result<std::unique_ptr<AttachedDevice>> Vm::Impl::attach(const DeviceOptions& options, std::uint32_t slot,
                                                         const CancelToken& cancel) {
  HANDOVER_ASSIGN(auto device, config.connect(options, *memory, cancel));
  auto tracking = options.dirty_tracking;
  if (!tracking.tracker) tracking.tracker = config.dirty_tracking;
  return AttachedDevice::attach(std::move(device), slot,
                                {*bus, *memory, *vcpu, interrupts, peers.get(), iommu != nullptr},
                                iommu.get(), tracking, blockers);
}

Status Vm::Impl::attach_devices(const CancelToken& cancel) {
  for (const auto& options : config.devices) {
    HANDOVER_ASSIGN(const auto slot, choose_slot(options));
    HANDOVER_ASSIGN(auto attached, attach(options, slot, cancel));
    pci->plug(attached->pci());
    devices.push_back(std::move(attached));
  }
  std::ranges::sort(devices, {}, [](const auto& device) { return device->identity().slot; });
  return {};
}

void Vm::Impl::enlist(AttachedDevice& device) {
  ram->add_dirty_source(device.dirty_source());
  machine->add_listener(device.migration());
  machine->add_listener(device.pci());
  machine->add_migratable(device.migration());
  if (iommu) iommu->add_endpoint(iommu::endpoint_of(device.identity().slot), *device.endpoint());
}

void Vm::Impl::delist(AttachedDevice& device) {
  if (iommu) iommu->remove_endpoint(iommu::endpoint_of(device.identity().slot));
  machine->remove_migratable(device.migration());
  machine->remove_listener(device.pci());
  machine->remove_listener(device.migration());
  ram->remove_dirty_source(device.dirty_source());
}

// Devices are stopped one after the other.  Without a state in which it starts no DMA to its peers, one that
// still runs may write into one that has stopped; a single device has no peer, and without peer to peer DMA
// none can reach another.
void Vm::Impl::block_mixed_p2p() {
  std::string without;
  if (peers && devices.size() > 1)
    for (const auto& device : devices)
      if (device->lacks_p2p()) without += fmt::format("{}`{}`", without.empty() ? "" : ", ", device->id());
  if (without.empty()) return p2p_hold.release();
  std::string reason = fmt::format(
      "device {} has no P2P state, which each of several devices needs to be migrated together; without peer "
      "to peer DMA (--p2p off) the machine could be migrated",
      without);
  log::warn("the machine cannot be migrated: {}", reason);
  p2p_hold = blockers.add(std::move(reason));
}

DeviceStatus Vm::Impl::judged(DeviceStatus status, const AttachedDevice& device) const {
  if (status.blocker.empty() && peers && devices.size() > 1 && device.lacks_p2p())
    status.blocker = "it has no P2P state, which each of several devices needs unless peer to peer is off";
  return status;
}

Status Vm::Impl::check_may_change(const char* what) const {
  switch (const auto state = machine->state()) {
    case RunState::prelaunch:
    case RunState::inmigrate:
    case RunState::running:
    case RunState::paused:
      return {};
    default:
      return fail(Errc::state, "no device can be {} while the machine is in run state {}", what,
                  to_string(state));
  }
}

Status Vm::Impl::put_in(std::unique_ptr<AttachedDevice>& device) {
  HANDOVER_TRY(check_may_change("plugged"));
  if (peers) HANDOVER_TRY_CONTEXT(peers->sync(), "plugging device `{}`", device->id());
  // Its interrupts are held back until it is told that the machine runs.
  if (machine->running()) HANDOVER_TRY(device->pci().change(RunState::paused, RunState::running));
  pci->plug(device->pci());
  enlist(*device);
  const auto place = std::ranges::find_if(
      devices, [&](const auto& other) { return other->identity().slot > device->identity().slot; });
  std::lock_guard lock(devices_mutex);
  devices.insert(place, std::move(device));
  return {};
}

std::unique_ptr<AttachedDevice> Vm::Impl::take_out(const std::string& id) {
  const auto place = std::ranges::find(devices, id, [](const auto& device) { return device->id(); });
  delist(**place);
  pci->unplug((*place)->pci());
  (*place)->pci().withdraw();
  std::lock_guard lock(devices_mutex);
  auto device = std::move(*place);
  devices.erase(place);
  return device;
}

Status Vm::plug(const DeviceOptions& options, const CancelToken& cancel) {
  auto& vm = *impl_;
  HANDOVER_TRY(check_device(options));
  HANDOVER_TRY(vm.check_may_change("plugged"));
  if (vm.has(options.id))
    return fail(Errc::state, "there is a device `{}` already; choose another id", options.id);
  HANDOVER_ASSIGN(const auto slot, vm.choose_slot(options));
  HANDOVER_ASSIGN(auto device, vm.attach(options, slot, cancel));
  HANDOVER_TRY(vm.loop.call([&] { return vm.machine->at_safe_point([&] { return vm.put_in(device); }); }));
  log::info("device `{}` was plugged into PCI slot {}", options.id, slot);
  vm.block_mixed_p2p();
  return {};
}

Status Vm::unplug(const std::string& id) {
  auto& vm = *impl_;
  if (!vm.has(id)) return fail(Errc::not_found, "there is no device `{}`", id);
  std::unique_ptr<AttachedDevice> device;
  HANDOVER_TRY(vm.loop.call([&] {
    return vm.machine->at_safe_point([&]() -> Status {
      HANDOVER_TRY(vm.check_may_change("unplugged"));
      device = vm.take_out(id);
      return {};
    });
  }));
  // Here, and not on the machine's thread: its server is told to let go of all memory, and may take its time.
  device.reset();
  log::info("device `{}` was unplugged", id);
  vm.block_mixed_p2p();
  return {};
}

}  // namespace handover::vmm
