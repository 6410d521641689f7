#pragma once

#include <optional>
#include <vector>

#include "handover/vfio_kernel/open_device.h"
#include "vfio_kernel/device_place.h"
#include "vfio_kernel/dma_log.h"
#include "vfio_kernel/dma_space.h"
#include "vfio_kernel/loss.h"
#include "vfio_kernel/migration.h"
#include "vfio_kernel/removal_watch.h"

namespace handover::vfio_kernel {

/// A vfio::Device behind the kernel's VFIO.
///
/// It is lost when the host asks for it back (its driver is unbound, it is taken out), which the kernel tells
/// by an interrupt of its own where the driver has that one (vfio-pci and the vendors' drivers on top of it;
/// not a mediated device's).  The hardware still works then and the host waits: until this object is gone.
class KernelDevice final : public vfio::Device {
 public:
  static Result<std::unique_ptr<KernelDevice>> open(const KernelOptions& options);

  const std::string& id() const override { return id_; }
  const vfio::DeviceInfo& info() const override { return info_; }
  const vfio::RegionInfo& region(std::uint32_t index) const override { return regions_.at(index); }
  const vfio::IrqInfo& irq(std::uint32_t index) const override { return irqs_.at(index); }

  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override;
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override;
  Result<Mapping> map_area(std::uint32_t index, const vfio::RegionArea& area) override;

  Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override;
  Status unmask_irq(std::uint32_t index) override;
  Status reset() override;
  Status dma_map(const vfio::DmaMapping& mapping) override;
  /// Also of a lost device, which may still write: it fails, and yet the mapping is gone.
  Status dma_unmap(const vfio::IovaRange& range) override;

  vfio::MigrationProtocol* migration() override { return migration_.get(); }
  std::string migration_blocker() const override { return blocker_; }
  vfio::DmaLog* dma_log() override { return dma_log_ ? &*dma_log_ : nullptr; }
  std::vector<vfio::TrackerOffer> iommu_offers() override { return opened_.space->offers(); }

  bool lost() const override { return loss_.lost(); }
  void on_lost(std::function<void(std::string reason)> handler) override {
    loss_.on_lost(std::move(handler));
  }

 private:
  KernelDevice(std::string id, OpenedDevice opened) : id_(std::move(id)), opened_(std::move(opened)) {}
  int fd() const { return opened_.device.get(); }
  Status read_info(const DevicePlace& place);
  Status set_running();
  Result<vfio::RegionInfo> read_region(std::uint32_t index) const;
  Status check_access(std::uint32_t index, std::uint64_t offset, std::uint64_t size) const;
  Status set_irqs(std::uint32_t flags, std::uint32_t index, std::span<const int> eventfds);
  void watch_removal();
  std::unexpected<Error> access_error(std::string_view doing, std::uint32_t index, int err) const;

  const std::string id_;
  Loss loss_;
  OpenedDevice opened_;
  vfio::DeviceInfo info_;
  std::vector<vfio::RegionInfo> regions_;
  std::vector<vfio::IrqInfo> irqs_;
  std::unique_ptr<KernelMigration> migration_;
  std::optional<KernelDmaLog> dma_log_;
  std::string blocker_;
  std::optional<RemovalWatch> removal_;  // last: its thread uses what is above
};

}  // namespace handover::vfio_kernel
