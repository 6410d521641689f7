#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "handover/vfio_user/client.h"
#include "vfio_user/client/connection.h"
#include "vfio_user/client/dma_log.h"
#include "vfio_user/client/dma_service.h"
#include "vfio_user/client/migration.h"

namespace handover::vfio_user {

/// A vfio::Device whose device lives behind a vfio-user server.
class ClientDevice final : public vfio::Device {
 public:
  /// Negotiates on a connected socket and reads what the device is.
  static Result<std::unique_ptr<ClientDevice>> open(const ClientOptions& options, UniqueFd socket,
                                                    GuestMemory& memory, CancelToken cancel);

  const std::string& id() const override { return id_; }
  const vfio::DeviceInfo& info() const override { return info_; }
  const vfio::RegionInfo& region(std::uint32_t index) const override { return regions_.at(index).info; }
  const vfio::IrqInfo& irq(std::uint32_t index) const override { return irqs_.at(index); }

  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override;
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override;
  Result<Mapping> map_area(std::uint32_t index, const vfio::RegionArea& area) override;
  vfio::AreaFile area_file(std::uint32_t index, const vfio::RegionArea& area) const override;

  Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override;
  Status unmask_irq(std::uint32_t index) override;
  Status reset() override;
  Status dma_map(const vfio::DmaMapping& mapping) override;
  Status dma_unmap(const vfio::IovaRange& range) override;
  void dma_change(std::span<vfio::DmaChange> changes, const vfio::DirtyReportSink* dirt) override;

  std::uint64_t dma_faults() const override { return dma_.faults(); }

  vfio::MigrationProtocol* migration() override { return migration_.get(); }
  std::string migration_blocker() const override { return blocker_; }
  vfio::DmaLog* dma_log() override { return dma_log_ ? &*dma_log_ : nullptr; }

  bool lost() const override { return connection_.lost(); }
  void on_lost(std::function<void(std::string reason)> handler) override {
    connection_.on_lost(std::move(handler));
  }

 private:
  struct Region {
    vfio::RegionInfo info;
    UniqueFd file;
  };

  ClientDevice(const ClientOptions& options, UniqueFd socket, GuestMemory& memory, CancelToken cancel);

  // handshake.cpp
  Status negotiate();
  Status take_twin(const protocol::Capabilities& server, std::vector<UniqueFd> fds);
  Status read_info();
  Result<Region> read_region(std::uint32_t index);
  Status read_irqs();
  Status find_features();
  Status find_migration_region(bool keep_state);
  Status repair_state();

  Status check_access(std::uint32_t index, std::uint64_t offset, std::uint64_t size) const;

  // dma_changes.cpp
  struct ChangeUnderWay;
  Result<ChangeUnderWay> begin_map(vfio::DmaChange& change);
  Result<ChangeUnderWay> begin_unmap(vfio::DmaChange& change, const vfio::DmaMapping& mapping);
  Status finish_change(ChangeUnderWay& change, const vfio::DirtyReportSink* dirt);
  Status finish_map(ChangeUnderWay& change);
  Status finish_unmap(ChangeUnderWay& change, const vfio::DirtyReportSink* dirt);
  Status tell_dirt(const ChangeUnderWay& change, const std::span<const std::byte>* bitmap,
                   const vfio::DirtyReportSink* dirt);

  Status set_irqs(const protocol::SetIrqsHead& head, std::vector<UniqueFd> fds);

  const std::string id_;
  const std::string name_;  // for messages: the id and the socket
  DmaService dma_;
  Connection connection_;
  Peer peer_;
  vfio::DeviceInfo info_;
  std::vector<Region> regions_;
  std::vector<vfio::IrqInfo> irqs_;
  std::vector<std::vector<bool>> installed_;  // which vectors have an eventfd, one list an index
  std::unique_ptr<vfio::MigrationProtocol> migration_;
  ClientMigration* v2_ = nullptr;  // migration_, if it is that
  std::optional<ClientDmaLog> dma_log_;
  std::string blocker_;
};

}  // namespace handover::vfio_user
