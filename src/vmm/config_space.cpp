#include "vmm/config_space.h"

#include <algorithm>
#include <bit>

namespace handover::vmm {
namespace {

// Smaller windows do not exist on PCI: memory BARs have 4 type bits, I/O BARs 2.
constexpr std::uint64_t kSmallestBar = 16;
constexpr std::uint64_t kSmallestIoBar = 4;

constexpr std::uint32_t type_mask(std::uint32_t bar) {
  return (bar & pci::kBarIo) != 0 ? pci::kBarIoTypeMask : pci::kBarTypeMask;
}

constexpr bool within(std::uint32_t at, std::uint32_t start, std::uint32_t bytes) {
  return at >= start && at - start < bytes;
}

}  // namespace

ConfigSpace::ConfigSpace(std::vector<std::byte> initial,
                         const std::array<std::uint64_t, pci::kBars>& region_sizes)
    : bytes_(std::move(initial)) {
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    const std::uint32_t at = pci::kBar0 + 4 * i;
    const std::uint32_t type = u32(at) & type_mask(u32(at));
    const std::uint64_t size = region_sizes[i];
    const bool wide = (type & pci::kBarIo) == 0 && (type & pci::kBar64) != 0 && i + 1 < pci::kBars;
    store_le<std::uint32_t>(bytes_.data() + at, size > 0 ? type : 0);
    if (size > 0 && size <= std::uint64_t{1} << 62)
      bar_sizes_[i] =
          std::bit_ceil(std::max(size, (type & pci::kBarIo) != 0 ? kSmallestIoBar : kSmallestBar));
    // The upper half of a 64-bit BAR is no BAR of its own.
    if (wide && size > 0) store_le<std::uint32_t>(bytes_.data() + pci::kBar0 + 4 * ++i, 0);
  }
  store_le<std::uint32_t>(bytes_.data() + pci::kRomBar, 0);
  store_le<std::uint16_t>(bytes_.data() + pci::kCommand, 0);
  const std::uint8_t msix = find_capability(pci::kCapabilityMsix);
  if (msix != 0 && msix + pci::kMsixBytes <= pci::kConfigBytes) {
    msix_ = msix;
    std::byte* control = bytes_.data() + msix_ + pci::kMsixControl;
    store_le<std::uint16_t>(control, load_le<std::uint16_t>(control) & pci::kMsixSizeMask);
  }
}

bool ConfigSpace::emulated(std::uint32_t at) const {
  return within(at, pci::kCommand, 2) || within(at, pci::kBar0, 4 * pci::kBars) ||
         within(at, pci::kRomBar, 4) || (msix_ != 0 && within(at, msix_ + pci::kMsixControl, 2));
}

// Which bits of an emulated byte a guest can change.
std::uint8_t ConfigSpace::write_mask(std::uint32_t at) const {
  if (within(at, pci::kCommand, 2))
    return static_cast<std::uint8_t>(pci::kCommandWritable >> (8 * (at - pci::kCommand)));
  if (msix_ != 0 && at == msix_ + pci::kMsixControl + 1) return 0xc0;
  if (!within(at, pci::kBar0, 4 * pci::kBars)) return 0;
  const std::uint32_t index = (at - pci::kBar0) / 4;
  const std::uint32_t shift = 8 * (at % 4);
  if (bar_sizes_[index] > 0) {
    const std::uint64_t mask =
        ~(bar_sizes_[index] - 1) & ~std::uint64_t{type_mask(u32(pci::kBar0 + 4 * index))};
    return static_cast<std::uint8_t>(mask >> shift);
  }
  if (index > 0 && bar(index - 1).wide)
    return static_cast<std::uint8_t>(~(bar_sizes_[index - 1] - 1) >> (32 + shift));
  return 0;
}

void ConfigSpace::write_emulated(std::uint32_t at, std::span<const std::byte> from) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto where = static_cast<std::uint32_t>(at + i);
    if (!emulated(where)) continue;
    const std::byte mask{write_mask(where)};
    bytes_[where] = (bytes_[where] & ~mask) | (from[i] & mask);
  }
}

void ConfigSpace::learn(std::uint32_t at, std::span<const std::byte> from) {
  for (std::size_t i = 0; i < from.size(); ++i)
    if (!emulated(static_cast<std::uint32_t>(at + i))) bytes_[at + i] = from[i];
}

BarDecode ConfigSpace::bar(std::uint32_t index) const {
  BarDecode decode;
  decode.size = bar_sizes_[index];
  if (decode.size == 0) return decode;
  const std::uint32_t low = u32(pci::kBar0 + 4 * index);
  decode.memory = (low & pci::kBarIo) == 0;
  decode.wide = decode.memory && (low & pci::kBar64) != 0 && index + 1 < pci::kBars;
  decode.address = low & ~type_mask(low);
  if (decode.wide) decode.address |= std::uint64_t{u32(pci::kBar0 + 4 * (index + 1))} << 32;
  return decode;
}

std::uint8_t ConfigSpace::find_capability(std::uint8_t id) const {
  if ((u16(pci::kStatus) & pci::kStatusCapabilities) == 0) return 0;
  std::uint8_t at = u8(pci::kCapabilities) & 0xfc;
  // 48 capabilities of 4 bytes fill the space; a longer list is a loop.
  for (int hops = 0; hops < 48 && at >= pci::kHeaderBytes; ++hops) {
    if (u8(at) == id) return at;
    at = u8(at + 1u) & 0xfc;
  }
  return 0;
}

}  // namespace handover::vmm
