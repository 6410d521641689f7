#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "handover/vmm/guest_report.h"
#include "vmm/address_space.h"
#include "vmm/synthetic/accelerator_driver.h"
#include "vmm/synthetic/edu_driver.h"
#include "vmm/synthetic/layout.h"
#include "vmm/synthetic/memory_workload.h"
#include "vmm/synthetic/registers.h"
#include "vmm/synthetic/uart_driver.h"

namespace handover::vmm::synthetic {

/// How far a verification has come.
struct VerificationState {
  std::uint64_t next_page = 0;
  std::uint32_t device = 0;  // accelerators, UARTs, the others
  AcceleratorDriver::Verification of_device;
  bool done = false;
  VerifyReport report;
};

/// The synthetic guest's program: a state machine that goes one short step at a time.
///
/// Registers and guest memory are its whole state, so between two steps it can be stopped, moved and gone on
/// with anywhere.  The same registers, memory and times give the same steps.
/// A verification is asked for from outside the guest and is no state of it.
class Program {
 public:
  /// `registers` belong to a Layout that was planned for `memory` (Registers::check).
  Program(GuestMemory& memory, AddressSpace& bus, Registers& registers);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /// One step, `elapsed` after the one before.  True if there is more to do at once.
  /// Errc::mismatch: the guest found itself broken, and the sentence says where.
  Result<bool> step(std::chrono::nanoseconds elapsed);

  /// From the next step on everything is checked, and nothing new is written.
  void begin_verification();
  void end_verification() { verification_.reset(); }
  bool verifying() const { return verification_.has_value(); }
  /// Once it is through.
  std::optional<VerifyReport> verified() const;
  /// All of memory at once, while no step is made.
  Result<VerifyReport> check_memory() const;

 private:
  Status boot();
  Status take_interrupts();
  Status take_interrupt(std::uint32_t vector);
  Status drive_devices(std::uint64_t elapsed);
  Status work_on_memory(std::uint64_t elapsed);
  Status verify();
  Status verify_device(VerificationState& state);
  AcceleratorDriver driver(std::uint32_t index);
  UartDriver uart(std::uint32_t index) { return {bus_, registers_, index}; }
  EduDriver edu(std::uint32_t index) { return {ram_, bus_, layout_, registers_, index}; }

  GuestRam ram_;
  AddressSpace& bus_;
  Registers& registers_;
  Layout layout_;
  MemoryWorkload memory_;
  std::optional<VerificationState> verification_;
};

}  // namespace handover::vmm::synthetic
