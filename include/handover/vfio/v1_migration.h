#pragma once

#include <memory>
#include <optional>

#include "handover/vfio/device.h"
#include "handover/vfio/migration_protocol.h"

namespace handover::vfio {

class V1DataSection;

/// Migration protocol v1 on the plain region access of a device, whatever carries that.
///
/// The region is found by its type.  Its registers are always read and written; of the data section, what the
/// device lets us map is mapped, and the rest goes by reads and writes, piece by piece.  Everything that the
/// region says is checked before it is used, and a mapping that the device cuts short is an error.
///
/// v1 has no P2P states and always pre-copy, so features() is STOP_COPY and PRE_COPY.  Of the ways between
/// two states, those are taken that every v1 driver must support (1>0, 1>2>0, 1>3>2>0, 1>4, 4>1, and back to
/// 1 to cancel), where there are such.  A driver that does not know 4>0 is kept in RESUMING, where it is
/// stopped, too, and state() says STOP until it is started: then it judges what it was given only there.
///
/// A read() costs three region reads and the data.  Owner, thread and errors as in MigrationProtocol; the
/// device outlives this object.
/// Source: VFIO uAPI, Linux 5.8 to 5.17.
class V1Migration final : public MigrationProtocol {
 public:
  /// A chunk needs a buffer of its size on the way, so devices with more are refused.
  static constexpr std::size_t kMaxChunk = 64 * MiB;

  /// The index of the device's migration region, if it has one.
  static std::optional<std::uint32_t> find_region(const Device& device);
  /// Fails with a reason that a person understands if the region cannot be used.
  static Result<std::unique_ptr<V1Migration>> create(Device& device, std::uint32_t region);
  ~V1Migration() override;

  std::string_view protocol_name() const override { return "v1 region"; }
  std::uint64_t features() const override { return kMigrationStopCopy | kMigrationPreCopy; }
  Result<DeviceState> state() override;
  Status set_state(DeviceState to) override;
  /// Exactly one chunk; the buffer has room for preferred_chunk().
  Result<StateRead> read(std::span<std::byte> buffer) override;
  /// Exactly one chunk, as one read() gave it.
  Status write(std::span<const std::byte> data) override;
  Result<std::optional<PrecopyInfo>> precopy_info() override;
  /// In STOP_COPY only; before, nobody knows.
  Result<std::optional<std::uint64_t>> stop_copy_size() override;
  /// The size of the data section.
  std::size_t preferred_chunk() const override;
  bool keeps_chunks() const override { return true; }

 private:
  V1Migration(Device& device, std::uint32_t region, std::unique_ptr<V1DataSection> data);
  Status enter(std::uint32_t bits);
  Result<std::uint32_t> read_state_register();
  Result<std::uint64_t> read_pending();
  Result<std::uint64_t> read_register(std::uint64_t offset);

  Device& device_;
  const std::uint32_t region_;
  const std::unique_ptr<V1DataSection> data_;
  DeviceState last_ = DeviceState::running;  // as the device last said
  std::optional<std::uint64_t> pending_;     // what the end of the last chunk has told already
  bool stop_deferred_ = false;               // in RESUMING, and STOP was asked for
};

}  // namespace handover::vfio
