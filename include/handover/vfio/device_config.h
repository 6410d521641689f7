#pragma once

#include "handover/base/result.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

namespace handover::vfio {

/// What the VMM itself keeps of a device and must move with it: PCI config space, interrupt lines, the
/// MSI-X table and pending bits, in QEMU's layout (be32 2, config space, four be32, table, pending bits).
///
/// The device is stopped, or not yet started, whenever one of these is called.
class DeviceConfig {
 public:
  virtual ~DeviceConfig() = default;
  /// Source: writes the state.
  virtual Status save(StreamWriter& out) = 0;
  /// Destination: reads and checks it against the local device; a mismatch names both sides.
  virtual Status load(StreamReader& in) = 0;
  /// After the device has stopped: interrupts that it raised and nobody has delivered become pending bits,
  /// so that they are neither lost nor left behind.
  virtual void collect_interrupts() = 0;
  /// After load() and before the device runs: writes registers, installs eventfds.
  virtual Status apply() = 0;
};

}  // namespace handover::vfio
