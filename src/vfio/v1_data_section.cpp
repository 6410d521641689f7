#include "vfio/v1_data_section.h"

#include <algorithm>

#include "handover/base/guarded_copy.h"
#include "handover/base/log.h"
#include "handover/vfio_abi/v1_region.h"

namespace handover::vfio {

V1DataSection::V1DataSection(Device& device, std::uint32_t region, std::size_t max_chunk)
    : device_(device), region_(region), max_chunk_(max_chunk) {
}

Result<std::unique_ptr<V1DataSection>> V1DataSection::open(Device& device, std::uint32_t region,
                                                           std::size_t max_chunk) {
  const auto& info = device.region(region);
  constexpr auto kBoth = kRegionRead | kRegionWrite;
  if ((info.flags & kBoth) != kBoth || info.size <= v1::kRegisterBlock)
    return fail(Errc::unsupported, "its migration region (v1) has {} bytes and flags {:#x}: no room for data",
                info.size, info.flags);
  // Where the data begins is known only once there is some; by custom it is the second page.
  if (info.size > max_chunk + kPageSize)
    return fail(Errc::unsupported,
                "its migration region (v1) has {} bytes; a chunk of data may be as large, and up to {} are "
                "possible",
                info.size, max_chunk);
  const auto most = std::min<std::uint64_t>(info.size - v1::kRegisterBlock, max_chunk);
  std::unique_ptr<V1DataSection> section(new V1DataSection(device, region, most));
  if (!(info.flags & kRegionMmap)) return section;
  auto areas = info.areas;
  std::ranges::sort(areas, {}, &RegionArea::offset);
  for (const auto& area : areas)
    section->map(area);
  return section;
}

// What cannot be mapped is read and written instead, which always works.
void V1DataSection::map(const RegionArea& area) {
  const auto after =
      mapped_.empty() ? v1::kRegisterBlock : mapped_.back().area.offset + mapped_.back().area.size;
  if (area.offset < after || area.size == 0 || area.offset % kPageSize != 0 || area.size % kPageSize != 0)
    return;
  auto mapping = device_.map_area(region_, area);
  if (!mapping) {
    log::warn("device `{}`: a part of its migration data goes by messages: {}", device_.id(),
              mapping.error().to_string());
    return;
  }
  if (mapping->size() >= area.size) mapped_.push_back({area, std::move(*mapping)});
}

V1DataSection::Piece V1DataSection::piece_at(std::uint64_t offset, std::uint64_t size) const {
  for (const auto& [area, mapping] : mapped_) {
    if (offset < area.offset) return {std::min(size, area.offset - offset), nullptr};
    const auto inside = offset - area.offset;
    if (inside < area.size) return {std::min(size, area.size - inside), mapping.data() + inside};
  }
  return {size, nullptr};
}

Status V1DataSection::check(std::uint64_t offset, std::uint64_t size) const {
  const auto whole = device_.region(region_).size;
  if (offset < v1::kRegisterBlock || !range_fits(offset, size, whole) || size > max_chunk_)
    return fail(
        Errc::protocol,
        "device `{}` says that {} bytes of its state are at {:#x}; its data section is [{:#x}, {:#x})",
        device_.id(), size, offset, v1::kRegisterBlock, whole);
  if (piece_at(offset, 1).mapped && offset % kPageSize != 0)
    return fail(Errc::protocol,
                "device `{}` says that its state is at {:#x}, mapped and not at a page's start", device_.id(),
                offset);
  return {};
}

Status V1DataSection::read(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const auto piece = piece_at(offset, to.size());
    const auto part = to.first(piece.size);
    if (!piece.mapped) {
      HANDOVER_TRY(device_.region_read(region_, offset, part));
    } else if (!guarded_read(part, piece.mapped)) {
      return fail(Errc::device, "device `{}` has taken away its migration data at {:#x}", device_.id(),
                  offset);
    }
    offset += piece.size;
    to = to.subspan(piece.size);
  }
  return {};
}

Status V1DataSection::write(std::uint64_t offset, std::span<const std::byte> from) const {
  while (!from.empty()) {
    const auto piece = piece_at(offset, from.size());
    const auto part = from.first(piece.size);
    if (!piece.mapped) {
      HANDOVER_TRY(device_.region_write(region_, offset, part));
    } else if (!guarded_write(piece.mapped, part)) {
      return fail(Errc::device, "device `{}` has taken away its migration data at {:#x}", device_.id(),
                  offset);
    }
    offset += piece.size;
    from = from.subspan(piece.size);
  }
  return {};
}

}  // namespace handover::vfio
