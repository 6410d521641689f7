#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "handover/base/result.h"
#include "handover/stream/vmstate.h"
#include "vmm/synthetic/layout.h"

namespace handover::vmm::synthetic {

/// What the driver of one accelerator keeps in registers.  Times are of the guest's clock, in nanoseconds.
struct DeviceRegisters {
  static constexpr std::uint32_t kRunning = 1;
  static constexpr std::uint32_t kLost = 2;  ///< the device reads as all ones; the guest goes on without it

  std::uint32_t state = 0;
  std::uint32_t slot = 0;
  std::uint64_t registers_bar = 0;
  std::uint64_t window_bar = 0;
  std::uint64_t memory_size = 0;
  std::uint64_t submitted = 0;  ///< since enable; the device's own counters are the low 32 bits
  std::uint64_t completed = 0;
  std::uint64_t generation = 0;  ///< of the newest content made for this device
  std::uint64_t job_credit = 0;  ///< in billionths of a job
  std::uint64_t last_progress = 0;
  std::uint64_t last_probe = 0;
  std::uint64_t unseen_since = 0;  ///< a completion is in the ring and no interrupt told of it; 0: none
  std::uint64_t window_writes = 0;
  std::uint64_t peer_job = 0;    ///< number + 1 of the newest job that touches a peer; 0: none yet
  std::uint64_t peer_tried = 0;  ///< when that was submitted
  std::uint64_t unmapped = 0;    ///< jobs whose buffers the IOMMU has been told to forget
};

/// What the driver of one UART keeps in registers.
struct UartRegisters {
  std::uint32_t state = 0;  ///< as DeviceRegisters
  std::uint32_t slot = 0;
  std::uint64_t ports = 0;     ///< guest address of its registers
  std::uint64_t sent = 0;      ///< bytes, since the start
  std::uint64_t received = 0;  ///< of these, come back and found right
  std::uint64_t rounds = 0;
  std::uint64_t credit = 0;         ///< in billionths of a round
  std::uint64_t waiting_since = 0;  ///< for the interrupt that tells of what was sent; 0: it has come
};

/// What the driver of one educational device keeps in registers.
struct EduRegisters {
  enum Phase : std::uint32_t { kIdle, kToDevice, kFromDevice };

  std::uint32_t state = 0;  ///< as DeviceRegisters
  std::uint32_t slot = 0;
  std::uint64_t bar = 0;
  std::uint32_t phase = kIdle;
  std::uint64_t rounds = 0;  ///< begun
  std::uint64_t since = 0;   ///< when the transfer under way began
};

/// The synthetic CPU's registers: the whole state of its program.  Everything else is in guest memory.
///
/// The program's settings are among them, so that a guest that has moved goes on as it was told at its start.
struct Registers {
  std::uint64_t ram_size = 0;
  std::uint64_t working_set_pages = 0;
  std::uint32_t device_limit = 0;
  std::uint64_t seed = 0;
  std::uint64_t dirty_rate = 0;  ///< bytes a second
  std::uint64_t job_rate = 0;    ///< jobs a second for each device
  bool p2p = true;               ///< the platform lets devices reach each other's memory
  bool viommu = false;           ///< devices reach what is mapped in the platform's IOMMU

  std::uint64_t clock = 0;  ///< nanoseconds that the guest has run
  std::uint64_t steps = 0;
  std::uint64_t random = 0;
  bool booted = false;

  std::uint64_t fill_next = 0;     ///< pages filled for the first time
  std::uint64_t write_credit = 0;  ///< bytes, in billionths
  std::uint64_t pages_written = 0;
  std::uint64_t table_sum = 0;      ///< of every page's number and generation: tells a stale table
  std::uint64_t table_checked = 0;  ///< when
  std::uint64_t pages_checked = 0;

  std::uint64_t jobs_submitted = 0;
  std::uint64_t jobs_completed = 0;
  std::uint64_t p2p_jobs = 0;
  std::uint64_t p2p_faults = 0;
  std::uint32_t iommu_tail = 0;      ///< commands given to the IOMMU, free running
  std::uint64_t iommu_mappings = 0;  ///< made so far
  std::uint64_t iommu_faults = 0;    ///< of jobs that were to fault
  std::uint64_t interrupts = 0;
  std::uint64_t spurious_interrupts = 0;
  std::uint64_t interrupts_lost = 0;
  std::uint64_t mismatches = 0;

  std::array<std::uint64_t, 4> interrupt_requests{};  ///< one bit a vector, raised and not yet taken
  std::uint32_t device_count = 0;
  std::vector<DeviceRegisters> devices;
  std::uint32_t uart_count = 0;
  std::vector<UartRegisters> uarts;
  std::uint32_t edu_count = 0;
  std::vector<EduRegisters> edus;

  /// Of the program's own random numbers: the next one.
  std::uint64_t next_random();

  static const std::shared_ptr<const vmstate::Description>& description();
  /// Whether what a stream brought can be run: all that addresses are made of is in range.
  Status check(std::uint64_t ram_size_here) const;
};

/// Interrupt vectors of the guest: two for each accelerator; lines have those that the platform gives them
/// (intx_line.h).
inline constexpr std::uint32_t kFirstVector = 32;
inline constexpr std::uint32_t device_vector(std::uint32_t device) {
  return kFirstVector + 2 * device;
}

/// Behind an IOMMU every device has a domain of its own; accelerators have those up to kMaxDevices.
inline constexpr std::uint32_t domain_of_edu(std::uint32_t index) {
  return kMaxDevices + 1 + index;
}

}  // namespace handover::vmm::synthetic
