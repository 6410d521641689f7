#include "solo/pci_header.h"

#include "handover/base/units.h"

namespace handover::solo {
namespace {

constexpr std::uint16_t kStatusCapabilities = 0x0010;
constexpr std::uint8_t kCapabilityMsix = 0x11;
constexpr std::size_t kMsixControl = 2;  // in the capability
constexpr std::size_t kMsixBytes = 12;
constexpr std::uint16_t kMsixSizeMask = 0x07ff;
/// So many capabilities of 4 bytes fill the space; a longer list is a loop.
constexpr int kMostCapabilities = 48;

}  // namespace

Result<PciHeader> PciHeader::read(vfio::Device& device) {
  if ((device.info().flags & vfio::kDeviceFlagPci) == 0 || device.info().num_regions <= vfio::kRegionConfig)
    return fail(Errc::unsupported, "device `{}` is no PCI device", device.id());
  const auto there = device.region(vfio::kRegionConfig).size;
  if (there < pci::kHeaderBytes)
    return fail(Errc::device, "device `{}` has a config space of {} bytes; its header alone has {}",
                device.id(), there, pci::kHeaderBytes);
  std::vector<std::byte> bytes(there >= pci::kExpressConfigBytes ? pci::kExpressConfigBytes
                                                                 : pci::kConfigBytes);
  // Some devices give less than there should be (255 bytes: the kernel's sample driver); the rest is nothing.
  HANDOVER_TRY_CONTEXT(
      device.region_read(vfio::kRegionConfig, 0,
                         std::span(bytes).first(std::min<std::uint64_t>(there, bytes.size()))),
      "reading the config space of device `{}`", device.id());
  PciHeader header(std::move(bytes));
  if (const unsigned type = header.u8(pci::kHeaderType) & 0x7f; type != 0)
    return fail(Errc::unsupported,
                "device `{}` has a config header of type {}; only type 0 (no bridge) can move", device.id(),
                type);
  return header;
}

std::uint32_t PciHeader::msix_vectors() const {
  if ((u16(pci::kStatus) & kStatusCapabilities) == 0) return 0;
  std::size_t at = u8(pci::kCapabilities) & 0xfcu;
  for (int hops = 0; hops < kMostCapabilities && at >= pci::kHeaderBytes; ++hops) {
    if (u8(at) == kCapabilityMsix)
      return range_fits(at, kMsixBytes, pci::kConfigBytes) ? (u16(at + kMsixControl) & kMsixSizeMask) + 1u
                                                           : 0;
    at = u8(at + 1) & 0xfcu;
  }
  return 0;
}

}  // namespace handover::solo
