#pragma once

#include <memory>

#include "handover/base/unique_fd.h"
#include "handover/vfio/migration_protocol.h"
#include "vfio_kernel/loss.h"

namespace handover::vfio_kernel {

/// Migration protocol v2 by ioctls and a data descriptor.  (VFIO uAPI, Linux 6.12: MIGRATION,
/// MIG_DEVICE_STATE.)
class KernelMigration final : public vfio::MigrationProtocol {
 public:
  /// Asks what the device can; empty if it cannot migrate.
  static Result<std::unique_ptr<KernelMigration>> probe(int device, const Loss& loss);

  std::string_view protocol_name() const override { return "v2 over the kernel's VFIO"; }
  std::uint64_t features() const override { return features_; }
  Result<vfio::DeviceState> state() override;
  /// The one place from which a kernel is asked for a state.  What the table of states forbids is never
  /// asked: kernels up to 6.12.95 do not return from STOP_COPY to a pre-copy state.
  Status set_state(vfio::DeviceState to) override;
  Result<vfio::StateRead> read(std::span<std::byte> buffer) override;
  Status write(std::span<const std::byte> data) override;
  Result<std::optional<vfio::PrecopyInfo>> precopy_info() override;
  Result<std::optional<std::uint64_t>> stop_copy_size() override;
  std::size_t preferred_chunk() const override { return kChunk; }

  /// The device was reset: its data descriptor is dead.
  void forget_session();

 private:
  static constexpr std::size_t kChunk = std::size_t{1} << 20;

  KernelMigration(int device, const Loss& loss, std::uint64_t features)
      : device_(device), loss_(loss), features_(features) {}

  const int device_;
  const Loss& loss_;
  const std::uint64_t features_;
  bool data_size_ = false;
  bool reinit_told_ = false;  // PRECOPY_INFO's flags mean something
  UniqueFd data_;
  bool ended_ = false;  // the last read of STOP_COPY has been made
  vfio::DeviceState last_ = vfio::DeviceState::running;
};

}  // namespace handover::vfio_kernel
