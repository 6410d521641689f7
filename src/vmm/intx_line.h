#pragma once

#include <cstdint>
#include <mutex>

#include "handover/base/units.h"
#include "vmm/interrupt_sink.h"

namespace handover::vmm {

/// The guest's controller of interrupt lines: one register.  The line of each PCI slot is a line of its own,
/// and raising it sends a message with vector kLineVector + slot to CPU 0.
namespace lines {
inline constexpr Gpa kBase{0xfec00000};
inline constexpr std::uint64_t kSize = 0x1000;
inline constexpr std::uint64_t kEndOfInterrupt = 0;  ///< u32, write: the slot whose interrupt was handled
inline constexpr std::uint32_t kLineVector = 128;
}  // namespace lines

/// The interrupt line of a device (INTx), as the VMM emulates it: it goes up when the device says so, and
/// down when the guest has handled the interrupt; then the device, which has masked it, is to be asked again,
/// and says so once more if it still wants attention.  (VFIO uAPI, Linux 6.12: VFIO_IRQ_INFO_AUTOMASKED.)
///
/// Frozen, as long as the machine stands still, nothing reaches the guest; the level is state that migrates.
/// Any thread; one leaf lock, under which only the sink is called.  Starts frozen.
class IntxLine {
 public:
  IntxLine(std::uint32_t slot, InterruptSink& sink) : slot_(slot), sink_(sink) {}

  /// The device wants attention.
  void raise();
  /// The guest has handled it.  True if the line was up: then the device is to be unmasked.
  bool lower();
  /// The command register's bit; a line that is up comes through when it is cleared.
  void set_disabled(bool disabled);
  void freeze();
  /// A line that is up is told again: a guest that knows already finds nothing to do.
  void thaw();

  bool level() const;
  void restore(bool level);

 private:
  void deliver();

  const std::uint32_t slot_;
  InterruptSink& sink_;
  mutable std::mutex mutex_;
  bool level_ = false;
  bool disabled_ = false;
  bool frozen_ = true;
};

}  // namespace handover::vmm
