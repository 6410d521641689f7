#include "vmm/machine_identity.h"

#include "handover/vmm/vm_config.h"

namespace handover::vmm {
namespace {

std::string size_text(std::uint64_t bytes) {
  if (bytes >= GiB && bytes % GiB == 0) return fmt::format("{} GiB", bytes / GiB);
  if (bytes >= MiB && bytes % MiB == 0) return fmt::format("{} MiB", bytes / MiB);
  return fmt::format("{} bytes", bytes);
}
std::string size_option(std::uint64_t bytes) {
  if (bytes >= GiB && bytes % GiB == 0) return fmt::format("{}G", bytes / GiB);
  if (bytes >= MiB && bytes % MiB == 0) return fmt::format("{}M", bytes / MiB);
  return fmt::format("{}", bytes);
}

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
  return text.empty() ? "none" : text;
}

std::string list_of(const MachineFacts& facts) {
  std::string text;
  for (const auto& device : facts.devices)
    text += fmt::format("{}`{}`", text.empty() ? "" : ", ", device.id);
  return text.empty() ? "none" : text;
}

Status compare_devices(const DeviceIdentity& ours, const DeviceIdentity& theirs) {
  auto differ = [&](std::string_view what, const std::string& here, const std::string& there) {
    return fail(Errc::mismatch,
                "device `{}` {} {} here and {} in the stream; start the destination with the same device",
                ours.id, what, here, there);
  };
  if (ours.id != theirs.id)
    return fail(Errc::mismatch,
                "the device in PCI slot {} is `{}` here and `{}` in the stream; give the destination the "
                "same devices in the same slots",
                ours.slot, ours.id, theirs.id);
  if (ours.slot != theirs.slot)
    return fail(Errc::mismatch,
                "device `{}` is in PCI slot {} here and in {} in the stream; give the destination's slot={}",
                ours.id, ours.slot, theirs.slot, theirs.slot);
  if (ours.vendor != theirs.vendor || ours.device != theirs.device)
    return differ("is", fmt::format("{:04x}:{:04x}", ours.vendor, ours.device),
                  fmt::format("{:04x}:{:04x}", theirs.vendor, theirs.device));
  if (ours.class_revision != theirs.class_revision || ours.subsystem != theirs.subsystem)
    return differ("has class, revision and subsystem",
                  fmt::format("{:08x}/{:08x}", ours.class_revision, ours.subsystem),
                  fmt::format("{:08x}/{:08x}", theirs.class_revision, theirs.subsystem));
  if (ours.config_size != theirs.config_size)
    return differ("has a config space of", fmt::format("{} bytes", ours.config_size),
                  fmt::format("{} bytes", theirs.config_size));
  for (std::size_t i = 0; i < ours.bar_sizes.size(); ++i)
    if (ours.bar_sizes[i] != theirs.bar_sizes[i])
      return differ(fmt::format("has a BAR {} of", i), size_text(ours.bar_sizes[i]),
                    size_text(theirs.bar_sizes[i]));
  if (ours.msix_vectors != theirs.msix_vectors)
    return differ("has", fmt::format("{} MSI-X vectors", ours.msix_vectors),
                  fmt::format("{}", theirs.msix_vectors));
  if (ours.migration_features != theirs.migration_features)
    return differ("can", fmt::format("({})", feature_text(ours.migration_features)),
                  fmt::format("({})", feature_text(theirs.migration_features)));
  return {};
}

}  // namespace

DeviceIdentity MachineIdentity::of(PciDevice& device) {
  const ConfigSpace& config = device.config();
  DeviceIdentity identity;
  identity.id = device.device().id();
  identity.slot = static_cast<std::uint8_t>(device.slot());
  identity.vendor = config.u16(pci::kVendorId);
  identity.device = config.u16(pci::kDeviceId);
  identity.class_revision = config.u32(pci::kRevision);
  identity.subsystem = config.u32(pci::kSubsystemVendor);
  identity.config_size = static_cast<std::uint32_t>(config.size());
  for (std::uint32_t i = 0; i < pci::kBars; ++i)
    identity.bar_sizes[i] = config.bar(i).size;
  identity.msix_vectors = device.msix_vectors();
  if (auto* migration = device.device().migration()) identity.migration_features = migration->features();
  return identity;
}

const vmstate::Description* MachineIdentity::description() const {
  static const auto device = vmstate::Describe<DeviceIdentity>("handover-device", 1)
                                 .fixed_text("id", &DeviceIdentity::id, kMaxDeviceId + 1)
                                 .field("slot", &DeviceIdentity::slot)
                                 .field("vendor", &DeviceIdentity::vendor)
                                 .field("device", &DeviceIdentity::device)
                                 .field("class_revision", &DeviceIdentity::class_revision)
                                 .field("subsystem", &DeviceIdentity::subsystem)
                                 .field("config_size", &DeviceIdentity::config_size)
                                 .field("bar_sizes", &DeviceIdentity::bar_sizes)
                                 .field("msix_vectors", &DeviceIdentity::msix_vectors)
                                 .field("migration_features", &DeviceIdentity::migration_features)
                                 .done();
  static const auto machine =
      vmstate::Describe<MachineFacts>("handover-machine", 3)
          .field("ram_size", &MachineFacts::ram_size)
          .field("vcpus", &MachineFacts::vcpus)
          .field("p2p", &MachineFacts::p2p, {.since = 2})
          .field("viommu", &MachineFacts::viommu, {.since = 3})
          .field("device_count", &MachineFacts::device_count)
          .sized_array("devices", &MachineFacts::devices, &MachineFacts::device_count, kMaxDevices, device)
          .done();
  return machine.get();
}

Status MachineIdentity::save_state(StreamWriter& out) {
  written_ = present_();
  return StateItem::save_state(out);
}

Status MachineIdentity::load_state(StreamReader& in, std::uint32_t version) {
  MachineFacts theirs;
  HANDOVER_TRY(description()->load(&theirs, in, version));
  return compare_machines(present_(), theirs);
}

Status compare_machines(const MachineFacts& ours, const MachineFacts& theirs) {
  if (ours.ram_size != theirs.ram_size)
    return fail(Errc::mismatch,
                "this machine has {} of RAM, the stream's has {}; start the destination with --memory {}",
                size_text(ours.ram_size), size_text(theirs.ram_size), size_option(theirs.ram_size));
  if (ours.vcpus != theirs.vcpus)
    return fail(Errc::mismatch, "this machine has {} vCPUs, the stream's has {}", ours.vcpus, theirs.vcpus);
  if (ours.viommu != theirs.viommu)
    return fail(
        Errc::mismatch,
        "the guest of this machine has {} IOMMU and that of the stream's has {}; start the destination "
        "{} --viommu",
        ours.viommu ? "an" : "no", theirs.viommu ? "one" : "none", theirs.viommu ? "with" : "without");
  if (ours.p2p != theirs.p2p)
    return fail(Errc::mismatch,
                "peer to peer DMA is {} in this machine and {} in the stream's; start the destination with "
                "--p2p {}",
                ours.p2p ? "on" : "off", theirs.p2p ? "on" : "off", theirs.p2p ? "on" : "off");
  if (ours.devices.size() != theirs.devices.size())
    return fail(Errc::mismatch,
                "this machine has {} devices ({}), the stream's has {} ({}); give the destination the same "
                "devices in the same slots",
                ours.devices.size(), list_of(ours), theirs.devices.size(), list_of(theirs));
  for (std::size_t i = 0; i < ours.devices.size(); ++i)
    HANDOVER_TRY(compare_devices(ours.devices[i], theirs.devices[i]));
  return {};
}

}  // namespace handover::vmm
