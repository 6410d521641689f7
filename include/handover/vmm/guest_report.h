#pragma once

#include <cstdint>
#include <string>

namespace handover::vmm {

/// What the synthetic guest has done and seen, as its own registers count it: a guest that has moved goes on
/// counting where it was.
struct GuestReport {
  double seconds = 0;  ///< that it ran, by its own clock
  std::uint64_t steps = 0;
  std::uint64_t working_set_bytes = 0;
  std::uint64_t pages_filled = 0;  ///< of the working set, for the first time
  std::uint64_t pages_written = 0;
  std::uint64_t pages_checked = 0;
  std::uint64_t jobs_submitted = 0;
  std::uint64_t jobs_completed = 0;
  std::uint64_t p2p_jobs = 0;        ///< between a device and the memory of a peer, done and found right
  std::uint64_t p2p_faults = 0;      ///< that could not reach the peer: P2P is off, or the peer is gone
  std::uint64_t iommu_mappings = 0;  ///< that it made in its IOMMU
  std::uint64_t iommu_faults = 0;  ///< DMA where nothing was mapped, tried on purpose, that failed as it must
  std::uint64_t uart_bytes = 0;    ///< that came back from UARTs as they were sent
  std::uint64_t edu_rounds = 0;    ///< of DMA into QEMU's edu and back, found right
  std::uint64_t interrupts = 0;
  std::uint64_t spurious_interrupts = 0;  ///< with nothing new in the ring: harmless
  std::uint64_t interrupts_lost = 0;      ///< a completion of which no interrupt told within 2 s
  std::uint64_t mismatches = 0;           ///< at the first one the guest panics
  std::uint32_t devices = 0;              ///< found at boot
  std::uint32_t devices_lost = 0;
  std::uint32_t lost_mask =
      0;              ///< bit i: the i-th device: accelerators in order of slots, then UARTs, then edus
  std::string panic;  ///< why it panicked; empty if it did not
};

/// What a full check of the guest looked at; a check that fails is an Error instead.
struct VerifyReport {
  std::uint64_t pages = 0;
  std::uint64_t device_slots = 0;  ///< pieces of device memory, by hash
  std::uint32_t devices = 0;       ///< 0 also if the machine stands still: devices cannot be asked then
  std::uint32_t devices_lost = 0;
};

}  // namespace handover::vmm
