#pragma once

#include <cstdint>

namespace handover::vmm {

/// Where message-signalled interrupts of devices go: the guest's interrupt controller.
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  /// A device wrote `data` to `address`.  Any thread, under the caller's lock: it may take a leaf lock for
  /// a moment, must not wait, and must not call back.
  virtual void message(std::uint64_t address, std::uint32_t data) = 0;
};

}  // namespace handover::vmm
