#include "solo/device_identity.h"

namespace handover::solo {
namespace {

std::string feature_text(std::uint64_t features) {
  std::string text;
  auto add = [&](std::uint64_t bit, std::string_view name) {
    if ((features & bit) == 0) return;
    text += text.empty() ? "" : ", ";
    text += name;
  };
  add(vfio::kMigrationStopCopy, "stop-copy");
  add(vfio::kMigrationP2p, "p2p");
  add(vfio::kMigrationPreCopy, "pre-copy");
  return text.empty() ? "nothing" : text;
}

}  // namespace

DeviceShape DeviceShape::of(vfio::Device& device, const PciHeader& header) {
  DeviceShape shape;
  shape.protocol = device.migration()->protocol_name().starts_with("v1") ? 1 : 2;
  shape.features = device.migration()->features();
  shape.vendor = header.u16(pci::kVendor);
  shape.device = header.u16(pci::kDevice);
  shape.class_revision = header.u32(pci::kRevision);
  shape.subsystem = header.u32(pci::kSubsystemVendor);
  shape.config_bytes = static_cast<std::uint32_t>(header.bytes().size());
  shape.msix_vectors = header.msix_vectors();
  for (std::uint32_t i = 0; i < pci::kBars; ++i)
    shape.bar_bytes[i] = device.region(vfio::kRegionBar0 + i).size;
  return shape;
}

Status compare_shapes(const std::string& id, const DeviceShape& ours, const DeviceShape& theirs) {
  auto differ = [&](std::string_view what, const std::string& here, const std::string& there) {
    return fail(Errc::mismatch,
                "device `{}` {} {} here and {} in the stream; load it into a device of the same kind", id,
                what, here, there);
  };
  if (ours.vendor != theirs.vendor || ours.device != theirs.device)
    return differ("is", fmt::format("{:04x}:{:04x}", ours.vendor, ours.device),
                  fmt::format("{:04x}:{:04x}", theirs.vendor, theirs.device));
  if (ours.class_revision != theirs.class_revision)
    return differ("has class and revision", fmt::format("{:08x}", ours.class_revision),
                  fmt::format("{:08x}", theirs.class_revision));
  if (ours.subsystem != theirs.subsystem)
    return differ("has the subsystem",
                  fmt::format("{:04x}:{:04x}", ours.subsystem & 0xffff, ours.subsystem >> 16),
                  fmt::format("{:04x}:{:04x}", theirs.subsystem & 0xffff, theirs.subsystem >> 16));
  if (ours.config_bytes != theirs.config_bytes)
    return differ("has a config space of", fmt::format("{} bytes", ours.config_bytes),
                  fmt::format("{} bytes", theirs.config_bytes));
  for (std::size_t i = 0; i < pci::kBars; ++i)
    if (ours.bar_bytes[i] != theirs.bar_bytes[i])
      return differ(fmt::format("has a BAR {} of", i), fmt::format("{} bytes", ours.bar_bytes[i]),
                    fmt::format("{} bytes", theirs.bar_bytes[i]));
  if (ours.msix_vectors != theirs.msix_vectors)
    return differ("has", fmt::format("{} MSI-X vectors", ours.msix_vectors),
                  fmt::format("{}", theirs.msix_vectors));
  if (ours.protocol != theirs.protocol)
    return differ("migrates by protocol", fmt::format("v{}", ours.protocol),
                  fmt::format("v{}", theirs.protocol));
  if (ours.features != theirs.features)
    return differ("migrates with", fmt::format("({})", feature_text(ours.features)),
                  fmt::format("({})", feature_text(theirs.features)));
  return {};
}

const vmstate::Description* DeviceIdentity::description() const {
  static const auto description = vmstate::Describe<DeviceShape>("handover-device", 1)
                                      .field("protocol", &DeviceShape::protocol)
                                      .field("features", &DeviceShape::features)
                                      .field("vendor", &DeviceShape::vendor)
                                      .field("device", &DeviceShape::device)
                                      .field("class_revision", &DeviceShape::class_revision)
                                      .field("subsystem", &DeviceShape::subsystem)
                                      .field("config_bytes", &DeviceShape::config_bytes)
                                      .field("msix_vectors", &DeviceShape::msix_vectors)
                                      .field("bar_bytes", &DeviceShape::bar_bytes)
                                      .done();
  return description.get();
}

Status DeviceIdentity::load_state(StreamReader& in, std::uint32_t version) {
  DeviceShape theirs;
  HANDOVER_TRY(description()->load(&theirs, in, version));
  HANDOVER_TRY(compare_shapes(id_, ours_, theirs));
  loaded_ = true;
  return {};
}

}  // namespace handover::solo
