#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "handover/machine/machine.h"
#include "handover/migration/parameters.h"
#include "handover/solo/figures.h"
#include "handover/solo/state_times.h"
#include "handover/vfio/device.h"

namespace handover::solo {

/// How a device gets ready to move without a machine around it.
struct SoloOptions {
  enum class Side { source, destination };
  Side side = Side::source;
  /// Source: false: everything is read while the device is stopped, also if it has pre-copy.
  bool use_precopy = true;
  /// Source: the device is stopped after so many rounds of pre-copy, at least 1, as soon as its initial data
  /// has gone; empty: when what is left fits the downtime limit.
  std::optional<std::uint32_t> rounds{};
  std::uint64_t downtime_limit_ms = 300;
};

/// A machine that is nothing but one device: what `Source` and `Destination` need to move it.
///
/// No vCPU, no memory that moves, no DMA mapping and no interrupt: a device that starts DMA meanwhile faults.
/// Its stream is a machine's stream with the section `handover-device` (what the device is, checked before
/// any of its data) and the device's own, `device/vfio`.  A whole machine does not load it, nor this one a
/// whole machine's.
///
/// Of the configuration space a destination takes over the command register, cache line size, latency timer
/// and interrupt line.  BAR addresses, MSI-X table and enable bits are a machine's and are left alone; the
/// stream has an MSI-X table in which every vector is masked.
///
/// Has a thread for the machine's loop.  Made, used and destroyed by one thread, which is none of its own;
/// figures() and states() may be called by any.  Outlives the Source or Destination that moves it.
class SoloMachine {
 public:
  /// Both outlive the machine; `memory` is the one that the device was opened with, and does not move.
  /// A source's device runs or is in STOP and stays there.  A destination's device in any other state is
  /// reset.
  static Result<std::unique_ptr<SoloMachine>> create(vfio::Device& device, GuestMemory& memory,
                                                     SoloOptions options);
  ~SoloMachine();
  SoloMachine(const SoloMachine&) = delete;
  SoloMachine& operator=(const SoloMachine&) = delete;

  Machine& machine();
  vfio::Device& device();
  /// Where the device was at first, and is as last seen.
  vfio::DeviceState found_in() const;
  vfio::DeviceState device_state() const;
  /// `wanted`, changed so that a Source stops the device when the options say, and not by its own
  /// measurements, which a device alone has too little traffic for.
  Parameters parameters(Parameters wanted) const;

  /// The device runs (again): after a save, or after a load that left it stopped.
  Status run();
  /// After a load that failed: resets the device if it has lost its own state to it.  True if that was done.
  Result<bool> abandon_load();

  const StateTimes& states() const;
  DeviceFigures figures() const;

 private:
  struct Impl;
  explicit SoloMachine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover::solo
