#pragma once

#include <memory>
#include <vector>

#include "handover/vfio/device.h"

namespace handover::vfio {

/// What lies behind the registers of a v1 migration region: areas that this process has mapped, and the rest.
class V1DataSection {
 public:
  /// Fails if the region cannot hold a data section, or one of more than `max_chunk` bytes.
  static Result<std::unique_ptr<V1DataSection>> open(Device& device, std::uint32_t region,
                                                     std::size_t max_chunk);

  /// No chunk is larger.
  std::size_t max_chunk() const { return max_chunk_; }
  /// Judges where the device says that a chunk lies.
  Status check(std::uint64_t offset, std::uint64_t size) const;
  /// Ranges that check() has passed.
  Status read(std::uint64_t offset, std::span<std::byte> to) const;
  Status write(std::uint64_t offset, std::span<const std::byte> from) const;

 private:
  struct Mapped {
    RegionArea area;
    Mapping mapping;
  };
  /// The front of a range that is either mapped or not, as a whole.
  struct Piece {
    std::uint64_t size = 0;
    std::byte* mapped = nullptr;
  };
  V1DataSection(Device& device, std::uint32_t region, std::size_t max_chunk);
  void map(const RegionArea& area);
  Piece piece_at(std::uint64_t offset, std::uint64_t size) const;

  Device& device_;
  const std::uint32_t region_;
  const std::size_t max_chunk_;
  std::vector<Mapped> mapped_;  // ascending, none on top of another
};

}  // namespace handover::vfio
