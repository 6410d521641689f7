#include "vmm/attached_device.h"

namespace handover::vmm {
namespace {

// The first word of its name: `v2`, `v1`.
std::string protocol_of(vfio::Device& device) {
  const auto* protocol = device.migration();
  if (!protocol) return "none";
  const auto name = protocol->protocol_name();
  return std::string(name.substr(0, name.find(' ')));
}

}  // namespace

std::string pci_path(std::uint32_t slot) {
  return fmt::format("0000:00:{:02x}.0", slot);
}

Result<std::unique_ptr<AttachedDevice>> AttachedDevice::attach(
    std::unique_ptr<vfio::Device> device, std::uint32_t slot, const PciDevice::Wiring& wiring,
    vfio::VirtualIommu* iommu, const vfio::DirtyTrackingOptions& tracking, Blockers& blockers) {
  std::unique_ptr<AttachedDevice> self(new AttachedDevice(std::move(device), blockers));
  vfio::Device& raw = *self->device_;
  self->path_ = pci_path(slot);
  // A server may keep its device as the client before left it, at work on memory that is another guest's now.
  if ((raw.info().flags & vfio::kDeviceFlagReset) != 0)
    HANDOVER_TRY_CONTEXT(raw.reset(), "device `{}`: resetting it", raw.id());
  HANDOVER_ASSIGN(self->pci_, PciDevice::attach(raw, slot, wiring));
  self->migration_ = std::make_unique<vfio::DeviceMigration>(raw, *self->pci_, self->path_);
  if (iommu) {
    auto map = std::make_unique<vfio::IovaMap>(iommu->options().iova_bits);
    self->iova_map_ = map.get();
    self->view_ = std::move(map);
  } else {
    self->view_ = std::make_unique<vfio::PhysicalView>(wiring.memory);
  }
  HANDOVER_ASSIGN(self->dirty_source_,
                  vfio::DmaDirtySource::create(fmt::format("device `{}`", raw.id()), vfio::offers_of(raw),
                                               *self->view_, tracking));
  if (iommu) self->endpoint_.emplace(raw, wiring.memory, *self->iova_map_, *self->dirty_source_);
  self->identity_ = MachineIdentity::of(*self->pci_);
  if (!raw.migration())
    self->unmigratable_hold_ =
        blockers.add(fmt::format("device `{}` cannot migrate: {}", raw.id(), raw.migration_blocker()));
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

bool AttachedDevice::lacks_p2p() const {
  const auto features = identity_.migration_features;
  return features != 0 && (features & vfio::kMigrationP2p) == 0;
}

DeviceStatus AttachedDevice::status() const {
  DeviceStatus status;
  status.id = identity_.id;
  status.slot = identity_.slot;
  status.path = path_;
  status.vendor = identity_.vendor;
  status.device = identity_.device;
  status.lost = device_->lost();
  status.migration_features = identity_.migration_features;
  status.pre_copy = (status.migration_features & vfio::kMigrationPreCopy) != 0;
  status.p2p = (status.migration_features & vfio::kMigrationP2p) != 0;
  status.protocol = protocol_of(*device_);
  status.migratable = status.migration_features != 0 && !status.lost;
  if (status.lost)
    status.blocker = "it is lost";
  else if (status.migration_features == 0)
    status.blocker = device_->migration_blocker();
  status.dma_log = device_->dma_log() != nullptr;
  status.dirty_tracking = dirty_source_->choice();
  status.dma_faults = device_->dma_faults();
  if (iova_map_) status.dma_mappings = iova_map_->size();
  status.state = to_string(migration_->last_state());
  return status;
}

DeviceStatus AttachedDevice::ask() const {
  auto status = this->status();
  auto* protocol = device_->migration();
  if (!protocol || status.lost) return status;
  // A device that does not answer now has nothing to say.
  if (const auto size = protocol->stop_copy_size(); size) status.stop_copy_size = *size;
  return status;
}

}  // namespace handover::vmm
