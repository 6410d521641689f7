#pragma once

#include <atomic>

#include "handover/vfio/migration_protocol.h"
#include "vfio_user/client/connection.h"
#include "vfio_user/client/peer.h"

namespace handover::vfio_user {

/// Migration protocol v2 by vfio-user messages.
class ClientMigration final : public vfio::MigrationProtocol {
 public:
  struct Probed {
    std::uint64_t features = 0;
    bool data_size = false;
    bool precopy_info = false;
  };
  ClientMigration(Connection& connection, const Peer& peer, Probed probed)
      : connection_(connection), peer_(peer), probed_(probed) {}

  std::string_view protocol_name() const override { return "v2 over vfio-user"; }
  std::uint64_t features() const override { return probed_.features; }
  Result<vfio::DeviceState> state() override;
  Status set_state(vfio::DeviceState to) override;
  Result<vfio::StateRead> read(std::span<std::byte> buffer) override;
  Status write(std::span<const std::byte> data) override;
  Result<std::optional<vfio::PrecopyInfo>> precopy_info() override;
  Result<std::optional<std::uint64_t>> stop_copy_size() override;
  std::size_t preferred_chunk() const override { return peer_.max_transfer; }

 private:
  Connection& connection_;
  const Peer& peer_;
  const Probed probed_;
  vfio::DeviceState last_ = vfio::DeviceState::running;  // as the server last said
};

}  // namespace handover::vfio_user
