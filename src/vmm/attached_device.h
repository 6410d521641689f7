#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "handover/migration/blockers.h"
#include "handover/vfio/device_migration.h"
#include "handover/vmm/vm.h"
#include "vmm/pci_device.h"

namespace handover::vmm {

/// One device of a machine with all that hangs on it, in the order in which it is taken down.
///
/// Made and destroyed while the machine does not run.  Once the device is lost a blocker says so, whoever
/// else asks.
class AttachedDevice {
 public:
  /// `blockers` outlives the object.
  static Result<std::unique_ptr<AttachedDevice>> attach(std::unique_ptr<vfio::Device> device,
                                                        std::uint32_t slot, const PciDevice::Wiring& wiring,
                                                        Blockers& blockers);

  PciDevice& pci() { return *pci_; }
  vfio::DeviceMigration& migration() { return *migration_; }
  vfio::DeviceDirtySource& dirty_source() { return *dirty_source_; }
  std::uint64_t migration_features() const { return features_; }
  DeviceStatus status() const;

 private:
  AttachedDevice(std::unique_ptr<vfio::Device> device, Blockers& blockers)
      : blockers_(blockers), device_(std::move(device)) {}
  void lost(const std::string& id, const std::string& reason);

  Blockers& blockers_;
  std::string path_;
  std::uint64_t features_ = 0;
  std::uint16_t vendor_ = 0;
  std::uint16_t product_ = 0;
  std::mutex lost_mutex_;
  Blockers::Hold lost_hold_;
  Blockers::Hold unmigratable_hold_;
  std::unique_ptr<vfio::Device> device_;  // its threads may call lost(): what that uses is above
  std::unique_ptr<PciDevice> pci_;
  std::unique_ptr<vfio::DeviceMigration> migration_;
  std::unique_ptr<vfio::DeviceDirtySource> dirty_source_;
};

/// The device's place on the bus, as section names have it.
std::string pci_path(std::uint32_t slot);

}  // namespace handover::vmm
