#pragma once

#include <cstddef>
#include <cstdint>

#include "devices/accelerator/interface.h"

namespace handover::accelerator {

/// What the registers in BAR 0 hold, and what accesses to them do.  No threads, no I/O.
struct Registers {
  std::uint32_t control = 0;
  std::uint64_t ring_address = 0;
  std::uint64_t completion_address = 0;
  std::uint32_t ring_entries = 0;
  std::uint32_t submitted = 0;
  std::uint32_t completed = 0;
  bool error = false;
  std::uint64_t jobs_done = 0;
  std::uint64_t interrupts_raised = 0;
  /// A completion record is being written: the driver can see it, and use its descriptor's place again,
  /// before `completed` counts it.  Never set in a held engine, and not migrated.
  bool completing = false;

  /// What the engine must do about a write.
  enum class Effect {
    none,
    look,  ///< there may be work now
    drop,  ///< the queue was disabled or is in error: forget the job in flight
  };

  bool enabled() const { return (control & kControlEnable) != 0; }
  bool interrupt_wanted() const { return (control & kControlInterrupt) != 0; }
  bool has_work() const { return enabled() && !error && completed != submitted; }
  /// The ring is one that the engine can walk.
  bool ring_usable() const;

  /// Where the next descriptor and the next completion record lie.  The ring must be usable.
  std::uint64_t descriptor_address() const;
  std::uint64_t record_address() const;

  /// `draining`: DMA of a dropped job is still out, which the driver sees as "still enabled".
  std::uint64_t read(std::uint64_t offset, std::size_t width, std::uint64_t memory_size, bool draining) const;
  Effect write(std::uint64_t offset, std::size_t width, std::uint64_t value);

 private:
  std::uint32_t read_cell(std::uint64_t offset, std::uint64_t memory_size, bool draining) const;
  Effect write_cell(std::uint64_t offset, std::uint32_t value);
  Effect write_control(std::uint32_t value);
};

}  // namespace handover::accelerator
