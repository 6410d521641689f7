#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "handover/stream/migratable.h"
#include "handover/vfio/device.h"
#include "solo/pci_header.h"

namespace handover::solo {

/// What two devices must have in common for one's state to make sense in the other.
struct DeviceShape {
  std::uint32_t protocol =
      2;  ///< of the migration, 1 or 2: the data of v1 comes in chunks that must stay whole
  std::uint64_t features = 0;  ///< kMigration... bits
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint32_t class_revision = 0;  ///< revision in the lowest byte
  std::uint32_t subsystem = 0;       ///< vendor in the lower half
  std::uint32_t config_bytes = 0;
  std::uint32_t msix_vectors = 0;
  std::array<std::uint64_t, pci::kBars> bar_bytes{};

  /// The device can migrate.
  static DeviceShape of(vfio::Device& device, const PciHeader& header);
};

/// Fails with a sentence that says what differs, here and in the stream.
Status compare_shapes(const std::string& id, const DeviceShape& ours, const DeviceShape& theirs);

/// Section `handover-device`, sent before everything else, so that a device that does not fit is found before
/// a byte of its state has moved.
class DeviceIdentity final : public StateItem {
 public:
  DeviceIdentity(std::string id, DeviceShape ours) : id_(std::move(id)), ours_(ours) {}

  std::string section_name() const override { return "handover-device"; }
  std::string display_name() const override { return "the device's shape"; }
  bool is_early() const override { return true; }
  const vmstate::Description* description() const override;
  Status load_state(StreamReader& in, std::uint32_t version) override;
  /// The stream is a device's, and of one like ours.
  bool loaded() const { return loaded_; }

 protected:
  void* mutable_object() const override { return const_cast<DeviceShape*>(&ours_); }

 private:
  std::string id_;
  DeviceShape ours_;
  bool loaded_ = false;
};

/// Takes the first section of a whole machine's stream, to say what it is.
///
/// A stream begins with one or the other, so it stops being due once the device's identity has come.
class WholeMachine final : public Migratable {
 public:
  explicit WholeMachine(const DeviceIdentity& identity) : identity_(identity) {}

  std::string section_name() const override { return "handover-machine"; }
  std::uint32_t version_id() const override { return UINT32_MAX; }
  bool is_early() const override { return true; }
  bool has_state() const override { return !identity_.loaded(); }
  Status load_state(StreamReader&, std::uint32_t) override {
    return fail(Errc::mismatch,
                "the stream is of a whole machine, not of a device alone; load it with "
                "`handover run --incoming`");
  }

 private:
  const DeviceIdentity& identity_;
};

}  // namespace handover::solo
