#pragma once

#include <atomic>

#include "handover/vfio/migration_protocol.h"
#include "vfio_user/client/connection.h"
#include "vfio_user/client/peer.h"

namespace handover::vfio_user {

/// Migration protocol v2 by vfio-user messages.
///
/// With a server of our own it runs one message ahead of its user, while the device stands still and time
/// counts: in STOP_COPY the next read is under way while the user still deals with the one before, and in
/// RESUMING a write returns while the device still loads it.
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

  /// The device was reset: what was under way is nobody's.
  void forget_session();

 private:
  /// State that was read before it was asked for, and how much of it was taken.
  struct Chunk {
    Connection::Ticket ticket;
    vfio::StateRead read;
    std::size_t taken = 0;
  };
  Result<vfio::StateRead> received(const Result<Message>& reply, std::uint32_t asked,
                                   std::span<std::byte> landed) const;
  Status read_ahead(std::uint32_t size);
  Result<vfio::StateRead> take_chunk(std::span<std::byte> buffer);
  Status write_part(std::span<const std::byte> part);
  Status finish_writing();

  Connection& connection_;
  const Peer& peer_;
  const Probed probed_;
  std::optional<Connection::Ticket> reading_;  // a read that is under way
  std::optional<Chunk> chunk_;
  Payload spare_;                                        // room that no chunk is in
  std::optional<Connection::Ticket> writing_;            // a write whose answer is not there yet
  vfio::DeviceState last_ = vfio::DeviceState::running;  // as the server last said
};

}  // namespace handover::vfio_user
