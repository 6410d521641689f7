#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "handover/stream/migratable.h"
#include "vmm/pci_device.h"

namespace handover::vmm {

/// What two machines must have in common for one's state to make sense in the other.
struct DeviceIdentity {
  std::string id;
  std::uint8_t slot = 0;
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint32_t class_revision = 0;
  std::uint32_t subsystem = 0;
  std::uint32_t config_size = 0;
  std::array<std::uint64_t, pci::kBars> bar_sizes{};
  std::uint32_t msix_vectors = 0;
  std::uint64_t migration_features = 0;
};

struct MachineFacts {
  std::uint64_t ram_size = 0;
  std::uint32_t vcpus = 0;
  bool p2p = true;  ///< devices reach each other's memory
  bool viommu = false;
  std::uint32_t device_count = 0;
  std::vector<DeviceIdentity> devices;
};

/// Section `handover-machine`, sent before everything else, so that a destination that does not fit says so
/// before a byte of memory has moved.
///
/// Devices come and go, so the facts are asked for when they are written or compared, by `present`, on the
/// migration's or load thread.
class MachineIdentity final : public StateItem {
 public:
  explicit MachineIdentity(std::function<MachineFacts()> present) : present_(std::move(present)) {}

  /// The facts of a plugged device.
  static DeviceIdentity of(PciDevice& device);

  std::string section_name() const override { return "handover-machine"; }
  std::string display_name() const override { return "the machine's shape"; }
  bool is_early() const override { return true; }
  const vmstate::Description* description() const override;
  Status save_state(StreamWriter& out) override;
  Status load_state(StreamReader& in, std::uint32_t version) override;

 protected:
  void* mutable_object() const override { return const_cast<MachineFacts*>(&written_); }

 private:
  std::function<MachineFacts()> present_;
  MachineFacts written_;
};

/// Fails with a sentence that names both sides and the way out.
Status compare_machines(const MachineFacts& ours, const MachineFacts& theirs);

}  // namespace handover::vmm
