#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "handover/vfio/device.h"

namespace handover::solo {

/// What a device's PCI header says of it.
struct PciFacts {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint32_t class_code = 0;  ///< 24 bits: base class, subclass, interface
  std::uint8_t revision = 0;
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::size_t config_bytes = 0;    ///< 256, or 4096 for PCI Express
  std::uint32_t msix_vectors = 0;  ///< 0: no MSI-X
};

/// What a device's migration can do, and where it is.
struct MigrationFacts {
  std::string protocol;
  std::uint64_t features = 0;                    ///< kMigration... bits
  std::optional<vfio::DeviceState> state;        ///< empty: it did not answer
  bool precopy_info = false;                     ///< it can tell what pre-copy has left
  std::optional<std::uint64_t> stop_copy_bytes;  ///< its estimate now; empty: it cannot say
  std::size_t chunk_bytes = 0;                   ///< the most that one read or write carries
};

struct DeviceFacts {
  std::string id;
  bool resettable = false;
  std::vector<vfio::RegionInfo> regions;  ///< those that exist
  std::vector<vfio::IrqInfo> irqs;        ///< those that have vectors
  std::optional<PciFacts> pci;            ///< empty: no PCI device, or `pci_problem` says why it is unknown
  std::string pci_problem;
  std::optional<MigrationFacts> migration;  ///< empty: it cannot migrate, and `migration_blocker` says why
  std::string migration_blocker;
  bool dma_log = false;
};

/// Asks an open device what it is.  Changes nothing: it asks for no state and writes no register.  Takes a
/// few round trips.  Fails only if the device is lost meanwhile.
Result<DeviceFacts> look_at(vfio::Device& device);

}  // namespace handover::solo
