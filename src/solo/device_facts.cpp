#include "handover/solo/device_facts.h"

#include "solo/pci_header.h"

namespace handover::solo {
namespace {

PciFacts pci_facts(const PciHeader& header) {
  PciFacts facts;
  facts.vendor = header.u16(pci::kVendor);
  facts.device = header.u16(pci::kDevice);
  facts.class_code = header.u32(pci::kRevision) >> 8;
  facts.revision = header.u8(pci::kRevision);
  facts.subsystem_vendor = header.u16(pci::kSubsystemVendor);
  facts.subsystem = header.u16(pci::kSubsystemVendor + 2);
  facts.config_bytes = header.bytes().size();
  facts.msix_vectors = header.msix_vectors();
  return facts;
}

MigrationFacts migration_facts(vfio::MigrationProtocol& protocol) {
  MigrationFacts facts;
  facts.protocol = protocol.protocol_name();
  facts.features = protocol.features();
  if (auto state = protocol.state()) facts.state = *state;
  // Outside of pre-copy a device that can tell refuses to; one that cannot says so at any time.
  if (const auto info = protocol.precopy_info(); (facts.features & vfio::kMigrationPreCopy) != 0)
    facts.precopy_info = !info || info->has_value();
  if (auto size = protocol.stop_copy_size()) facts.stop_copy_bytes = *size;
  facts.chunk_bytes = protocol.preferred_chunk();
  return facts;
}

}  // namespace

Result<DeviceFacts> look_at(vfio::Device& device) {
  DeviceFacts facts;
  facts.id = device.id();
  facts.resettable = (device.info().flags & vfio::kDeviceFlagReset) != 0;
  for (std::uint32_t i = 0; i < device.info().num_regions; ++i)
    if (device.region(i).size > 0) facts.regions.push_back(device.region(i));
  for (std::uint32_t i = 0; i < device.info().num_irqs; ++i)
    if (device.irq(i).count > 0) facts.irqs.push_back(device.irq(i));
  if ((device.info().flags & vfio::kDeviceFlagPci) != 0) {
    if (auto header = PciHeader::read(device))
      facts.pci = pci_facts(*header);
    else
      facts.pci_problem = header.error().to_string();
  }
  if (auto* protocol = device.migration())
    facts.migration = migration_facts(*protocol);
  else
    facts.migration_blocker = device.migration_blocker();
  facts.dma_log = device.dma_log() != nullptr;
  if (device.lost())
    return fail(Errc::device, "device `{}` was lost while it was asked what it is", facts.id);
  return facts;
}

}  // namespace handover::solo
