#include "vmm/attached_device.h"

namespace handover::vmm {

std::string pci_path(std::uint32_t slot) {
  return fmt::format("0000:00:{:02x}.0", slot);
}

Result<std::unique_ptr<AttachedDevice>> AttachedDevice::attach(std::unique_ptr<vfio::Device> device,
                                                               std::uint32_t slot,
                                                               const PciDevice::Wiring& wiring,
                                                               Blockers& blockers) {
  std::unique_ptr<AttachedDevice> self(new AttachedDevice(std::move(device), blockers));
  vfio::Device& raw = *self->device_;
  self->path_ = pci_path(slot);
  HANDOVER_ASSIGN(self->pci_, PciDevice::attach(raw, slot, wiring));
  self->migration_ = std::make_unique<vfio::DeviceMigration>(raw, *self->pci_, self->path_);
  self->dirty_source_ = std::make_unique<vfio::DeviceDirtySource>(raw, wiring.memory);
  if (auto* protocol = raw.migration())
    self->features_ = protocol->features();
  else
    self->unmigratable_hold_ =
        blockers.add(fmt::format("device `{}` cannot migrate: {}", raw.id(), raw.migration_blocker()));
  self->vendor_ = self->pci_->config().u16(pci::kVendorId);
  self->product_ = self->pci_->config().u16(pci::kDeviceId);
  raw.on_lost([self = self.get(), id = raw.id()](const std::string& reason) { self->lost(id, reason); });
  return self;
}

void AttachedDevice::lost(const std::string& id, const std::string& reason) {
  // Most reasons name the device already.
  const bool named = reason.find("`" + id + "`") != std::string::npos;
  auto hold = blockers_.add(named ? reason : fmt::format("device `{}` is lost ({})", id, reason));
  std::lock_guard lock(lost_mutex_);
  lost_hold_ = std::move(hold);
}

DeviceStatus AttachedDevice::status() const {
  DeviceStatus status;
  status.id = device_->id();
  status.slot = pci_->slot();
  status.path = path_;
  status.vendor = vendor_;
  status.device = product_;
  status.lost = device_->lost();
  status.migratable = features_ != 0 && !status.lost;
  if (status.lost)
    status.blocker = "it is lost";
  else if (features_ == 0)
    status.blocker = device_->migration_blocker();
  status.migration_features = features_;
  status.dma_log = device_->dma_log() != nullptr;
  status.state = to_string(migration_->last_state());
  return status;
}

}  // namespace handover::vmm
