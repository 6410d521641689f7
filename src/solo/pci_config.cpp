#include "solo/pci_config.h"

#include <array>

// Layout: be32 2, the config space, four be32 of interrupt lines, then with MSI-X of n vectors 16 * n bytes
// of table and ceil(n / 8) bytes of pending bits.

namespace handover::solo {
namespace {

constexpr std::uint32_t kStateVersion = 2;
constexpr int kInterruptLines = 4;
constexpr std::size_t kEntryBytes = 16;
constexpr std::uint8_t kVectorMasked = 1;  // the last register of an entry, little-endian

/// Bits of a BAR that say what it is: in an I/O BAR two, else four.
std::uint32_t bar_kind(std::uint32_t bar) {
  return bar & ((bar & 1) != 0 ? 0x3u : 0xfu);
}

}  // namespace

Status PciConfig::save(StreamWriter& out) {
  out.be32(kStateVersion);
  out.bytes(ours_.bytes());
  for (int line = 0; line < kInterruptLines; ++line)
    out.be32(0);
  // As a VMM's table is before a driver has written it.
  const std::uint32_t vectors = ours_.msix_vectors();
  std::array<std::byte, kEntryBytes> masked{};
  masked[12] = std::byte{kVectorMasked};
  for (std::uint32_t vector = 0; vector < vectors; ++vector)
    out.bytes(masked);
  for (std::uint32_t i = 0; i < (vectors + 7) / 8; ++i)
    out.u8(0);
  return out.status();
}

Status PciConfig::load(StreamReader& in) {
  HANDOVER_ASSIGN(const auto version, in.be32());
  if (version != kStateVersion)
    return fail(Errc::protocol, "its PCI state has version {}; only {} is known", version, kStateVersion);
  std::vector<std::byte> bytes(ours_.bytes().size());
  HANDOVER_TRY_CONTEXT(in.bytes(bytes), "its config space");
  PciHeader theirs(std::move(bytes));
  HANDOVER_TRY(check(theirs));
  for (int line = 0; line < kInterruptLines; ++line) {
    HANDOVER_ASSIGN(const auto level, in.be32());
    if (level != 0)
      return fail(Errc::unsupported,
                  "its interrupt line INT{} is raised in the stream; a device alone has none",
                  static_cast<char>('A' + line));
  }
  const std::uint32_t vectors = ours_.msix_vectors();
  HANDOVER_TRY_CONTEXT(in.skip(vectors * kEntryBytes + (vectors + 7) / 8), "its MSI-X table");
  loaded_ = std::move(theirs);
  return {};
}

Status PciConfig::check(const PciHeader& theirs) const {
  struct Same {
    std::string what;
    std::uint32_t here, there;
  };
  auto same32 = [&](std::string what, std::size_t at) {
    return Same{std::move(what), ours_.u32(at), theirs.u32(at)};
  };
  std::vector<Same> sames = {
      same32("device and vendor id", pci::kVendor),
      same32("class and revision", pci::kRevision),
      same32("subsystem", pci::kSubsystemVendor),
      {"header type", ours_.u8(pci::kHeaderType), theirs.u8(pci::kHeaderType)},
      {"number of MSI-X vectors", ours_.msix_vectors(), theirs.msix_vectors()},
  };
  for (std::uint32_t i = 0; i < pci::kBars; ++i) {
    const std::size_t at = pci::kBar0 + 4 * i;
    if (device_.region(vfio::kRegionBar0 + i).size > 0)
      sames.push_back({fmt::format("kind of BAR {}", i), bar_kind(ours_.u32(at)), bar_kind(theirs.u32(at))});
  }
  for (const auto& same : sames)
    if (same.here != same.there)
      return fail(Errc::mismatch, "its {} is {:#x} here and {:#x} in the stream", same.what, same.here,
                  same.there);
  return {};
}

Status PciConfig::apply() {
  if (!loaded_) return fail(Errc::state, "no configuration has been loaded");
  auto put = [&](std::size_t at, std::span<const std::byte> bytes) -> Status {
    HANDOVER_TRY_CONTEXT(device_.region_write(vfio::kRegionConfig, at, bytes),
                         "restoring config register {:#x}", at);
    return {};
  };
  for (const std::size_t at : {pci::kCacheLineSize, pci::kLatencyTimer, pci::kInterruptLine})
    HANDOVER_TRY(put(at, loaded_->bytes().subspan(at, 1)));
  std::array<std::byte, 2> command{};
  store_le<std::uint16_t>(command.data(), loaded_->u16(pci::kCommand) & pci::kCommandWritable);
  return put(pci::kCommand, command);
}

}  // namespace handover::solo
