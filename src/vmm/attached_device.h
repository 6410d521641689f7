#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "handover/migration/blockers.h"
#include "handover/vfio/device_migration.h"
#include "handover/vfio/iommu_endpoint.h"
#include "handover/vmm/vm.h"
#include "vmm/machine_identity.h"
#include "vmm/pci_device.h"

namespace handover::vmm {

/// One device of a machine with all that hangs on it, in the order in which it is taken down.
///
/// Made and destroyed by any thread; between the two it is put into the machine and taken out of it by the
/// machine's thread.  Once the device is lost a blocker says so, whoever else asks.
class AttachedDevice {
 public:
  /// `blockers` and `iommu` (null: the guest has none) outlive the object.
  static Result<std::unique_ptr<AttachedDevice>> attach(std::unique_ptr<vfio::Device> device,
                                                        std::uint32_t slot, const PciDevice::Wiring& wiring,
                                                        vfio::VirtualIommu* iommu,
                                                        const vfio::DirtyTrackingOptions& tracking,
                                                        Blockers& blockers);

  PciDevice& pci() { return *pci_; }
  vfio::DeviceMigration& migration() { return *migration_; }
  vfio::DmaDirtySource& dirty_source() { return *dirty_source_; }
  /// What the guest's IOMMU is told of it by; null: there is none.
  vfio::IommuListener* endpoint() { return endpoint_ ? &*endpoint_ : nullptr; }
  /// As it was when it was attached: the guest changes config space while others ask.
  const DeviceIdentity& identity() const { return identity_; }
  const std::string& id() const { return identity_.id; }
  /// True for a device that migrates and cannot be kept from its peers' memory.
  bool lacks_p2p() const;
  DeviceStatus status() const;
  /// The same with its own figures; makes calls of the device.
  DeviceStatus ask() const;

 private:
  AttachedDevice(std::unique_ptr<vfio::Device> device, Blockers& blockers)
      : blockers_(blockers), device_(std::move(device)) {}
  void lost(const std::string& id, const std::string& reason);

  Blockers& blockers_;
  std::string path_;
  DeviceIdentity identity_;
  std::mutex lost_mutex_;
  Blockers::Hold lost_hold_;
  Blockers::Hold unmigratable_hold_;
  std::unique_ptr<vfio::Device> device_;  // its threads may call lost(): what that uses is above
  std::unique_ptr<PciDevice> pci_;
  std::unique_ptr<vfio::DeviceMigration> migration_;
  std::unique_ptr<vfio::DmaView> view_;
  vfio::IovaMap* iova_map_ = nullptr;  // view_, behind an IOMMU
  std::unique_ptr<vfio::DmaDirtySource> dirty_source_;
  std::optional<vfio::IommuEndpoint> endpoint_;
};

/// The device's place on the bus, as section names have it.
std::string pci_path(std::uint32_t slot);

}  // namespace handover::vmm
