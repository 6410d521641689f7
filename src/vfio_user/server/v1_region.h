#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "handover/base/mapping.h"
#include "handover/vfio_abi/v1_region.h"
#include "vfio_user/server/host.h"

namespace handover::vfio_user {

/// The migration region of protocol v1 in front of a device model: registers, and a data section through
/// which the model's state goes chunk by chunk.
///
/// Belongs to one client's connection and lives on the server's loop; the memory of the section is the
/// client's alone, so that an earlier client which kept its mapping sees nothing of a later one.  What a
/// client can write at any moment is copied before the model sees it.
///
/// Saving, the client reads pending_bytes, data_offset (here the model is asked for the next chunk),
/// data_size, the data, and pending_bytes again, which says that it has the chunk; any other order is
/// refused, repeated reads are not.  A chunk that was prepared and not taken stays, also over the change from
/// pre-copy to stop-copy.  Resuming, it reads data_offset, writes the data, and writes data_size, which loads
/// the chunk.
class V1Region {
 public:
  static constexpr std::uint32_t kIndex = vfio::kPciRegions;
  /// Where the data section begins: the page of the registers is never mapped.
  static constexpr std::uint64_t kDataOffset = kPageSize;
  using Done = std::function<void(Status)>;

  static Result<std::unique_ptr<V1Region>> create(Host& host);

  const RegionSpec& spec() const { return spec_; }

  /// Accesses that lie inside the region.
  Status read(std::uint64_t offset, std::span<std::byte> to);
  /// Of everything but device_state.
  Status write(std::uint64_t offset, std::span<const std::byte> from);
  static bool is_device_state(std::uint64_t offset, std::size_t size) {
    return offset == vfio::v1::kDeviceState && size == sizeof(std::uint32_t);
  }
  /// A write of device_state: refused, done (true), or `done` is called when the device has really changed.
  Result<bool> set_state(std::uint32_t value, Done done);
  /// The device was reset.
  void forget();

 private:
  /// How far the client is with the present chunk.
  enum class Chunk {
    none,       ///< pending_bytes was not read, or was 0
    announced,  ///< and was not 0
    placed,     ///< data_offset was read: saving, the chunk is ready; resuming, there is room for one
    sized,      ///< saving: data_size was read, too
  };

  V1Region(Host& host, UniqueFd file, Mapping shared);
  std::uint32_t device_state() const;
  void reached(std::uint32_t from, std::uint32_t to);
  Result<std::uint64_t> read_register(std::uint64_t offset);
  std::uint64_t read_pending();
  std::uint64_t estimate() const;
  Status place_chunk();
  Status load_chunk(std::uint64_t size);
  /// What a client reads and writes as the data section.
  std::span<std::byte> section() { return shared_ ? shared_.span().subspan(kDataOffset) : std::span(own_); }

  Host& host_;
  const UniqueFd file_;
  const Mapping shared_;        // the whole region; none: trapped only
  std::vector<std::byte> own_;  // what the model reads and writes
  RegionSpec spec_;
  Chunk chunk_ = Chunk::none;
  std::size_t size_ = 0;         // of the chunk that is ready
  bool ended_ = false;           // the model has said that this was all
  bool named_pre_copy_ = false;  // the client is in pre-copy, which the device lacks: it simply runs
};

}  // namespace handover::vfio_user
