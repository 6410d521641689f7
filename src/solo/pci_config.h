#pragma once

#include "handover/vfio/device_config.h"
#include "solo/pci_header.h"

namespace handover::solo {

/// The configuration of a device that no VMM has attached, in QEMU's layout.
///
/// Saved as it was when the device was opened: nobody else writes it, and a device in STOP_COPY may refuse
/// every access.  Of what is loaded, the registers that a driver's state depends on are written back:
/// command, cache line size, latency timer, interrupt line.  Addresses in BARs and everything of MSI-X belong
/// to a VMM: they are checked for their shape and dropped.
class PciConfig final : public vfio::DeviceConfig {
 public:
  /// The device outlives this.
  PciConfig(vfio::Device& device, PciHeader ours) : device_(device), ours_(std::move(ours)) {}

  Status save(StreamWriter& out) override;
  Status load(StreamReader& in) override;
  void collect_interrupts() override {}
  Status apply() override;

 private:
  Status check(const PciHeader& theirs) const;

  vfio::Device& device_;
  PciHeader ours_;
  std::optional<PciHeader> loaded_;
};

}  // namespace handover::solo
