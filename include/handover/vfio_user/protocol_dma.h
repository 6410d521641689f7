#pragma once

#include <cstdint>
#include <optional>

#include "handover/vfio_user/protocol_fields.h"

/// Payloads about guest memory: DMA_MAP, DMA_UNMAP, DMA_READ, DMA_WRITE.
namespace handover::vfio_user::protocol {

inline constexpr std::uint32_t kDmaMapRead = 1;
inline constexpr std::uint32_t kDmaMapWrite = 2;
inline constexpr std::uint32_t kDmaMapUseMmap = 4;    ///< libvfio-user since 2026-06
inline constexpr std::uint32_t kDmaMapUseFileIo = 8;  ///< libvfio-user since 2026-06

/// DMA_MAP (2), with at most one descriptor.  The reply is a bare header.
struct DmaMap {
  std::uint32_t argsz = 32;
  std::uint32_t flags = 0;
  std::uint64_t offset = 0;   ///< in the file
  std::uint64_t address = 0;  ///< first IOVA
  std::uint64_t size = 0;
  static constexpr auto fields() {
    return std::tuple{&DmaMap::argsz, &DmaMap::flags, &DmaMap::offset, &DmaMap::address, &DmaMap::size};
  }
};

inline constexpr std::uint32_t kDmaUnmapGetDirtyBitmap = 1;
inline constexpr std::uint32_t kDmaUnmapAll = 2;

struct DmaUnmapHead {
  std::uint32_t argsz = 24;
  std::uint32_t flags = 0;
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  static constexpr auto fields() {
    return std::tuple{&DmaUnmapHead::argsz, &DmaUnmapHead::flags, &DmaUnmapHead::address,
                      &DmaUnmapHead::size};
  }
};

struct DirtyBitmapShape {
  std::uint64_t page_size = 0;
  std::uint64_t bytes = 0;
  static constexpr auto fields() {
    return std::tuple{&DirtyBitmapShape::page_size, &DirtyBitmapShape::bytes};
  }
};

/// DMA_UNMAP (3), both ways; the reply to kDmaUnmapGetDirtyBitmap ends with the bitmap.
struct DmaUnmap {
  DmaUnmapHead head;
  std::optional<DirtyBitmapShape> bitmap_shape;  ///< with kDmaUnmapGetDirtyBitmap
  std::span<const std::byte> bitmap;             ///< whatever followed

  static Result<DmaUnmap> decode(std::span<const std::byte> payload);
  void encode(NativeWriter& out) const;
};

/// DMA_READ (11) and DMA_WRITE (12), both ways; data follows in the reply to a read and in a write.
struct DmaAccessHead {
  std::uint64_t address = 0;
  std::uint64_t count = 0;
  static constexpr auto fields() { return std::tuple{&DmaAccessHead::address, &DmaAccessHead::count}; }
};
using DmaAccess = WithData<DmaAccessHead>;

}  // namespace handover::vfio_user::protocol
