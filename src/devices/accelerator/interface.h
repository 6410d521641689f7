#pragma once

#include <cstdint>

/// The programming interface of the accelerator: what its driver and its model share.
///
/// A PCI device with memory of its own and an engine that copies, fills and hashes.  The driver puts
/// descriptors into a submission ring in guest memory and rings the doorbell; the device fetches them by DMA,
/// carries them out in order, writes one completion record each by DMA and raises MSI-X vector 0.
/// All integers are little-endian.
namespace handover::accelerator {

inline constexpr std::uint16_t kVendorId = 0x484f;
inline constexpr std::uint16_t kDeviceId = 0xacc1;

inline constexpr std::uint32_t kBarRegisters = 0;  ///< 4 KiB
inline constexpr std::uint32_t kBarMsix = 1;       ///< 4 KiB: table at 0, pending bits at kMsixPbaOffset
inline constexpr std::uint32_t kBarWindow =
    2;  ///< kWindowSize; the first page by messages only, the rest mappable

inline constexpr std::uint64_t kRegistersSize = 0x1000;
inline constexpr std::uint64_t kMsixBarSize = 0x1000;
inline constexpr std::uint32_t kMsixPbaOffset = 0x800;
inline constexpr std::uint32_t kMsixVectors = 2;
inline constexpr std::uint64_t kWindowSize = 128 * 1024;
inline constexpr std::uint64_t kWindowMappableOffset = 0x1000;

/// Registers in BAR 0.  Accesses are 4 or 8 bytes wide and aligned; others read as all ones and write
/// nothing.
namespace reg {
inline constexpr std::uint64_t kId = 0x00;                 // u32, RO: kIdValue
inline constexpr std::uint64_t kVersion = 0x04;            // u32, RO: 1
inline constexpr std::uint64_t kStatus = 0x08;             // u32, RO: kStatus... bits
inline constexpr std::uint64_t kControl = 0x0c;            // u32, RW: kControl... bits
inline constexpr std::uint64_t kMemorySize = 0x10;         // u64, RO
inline constexpr std::uint64_t kRingAddress = 0x18;        // u64, RW while not enabled: submission ring
inline constexpr std::uint64_t kCompletionAddress = 0x20;  // u64, RW while not enabled: completion ring
inline constexpr std::uint64_t kRingEntries =
    0x28;  // u32, RW while not enabled: power of two, 2..kMaxRingEntries
inline constexpr std::uint64_t kDoorbell = 0x2c;  // u32, WO: descriptors submitted since enable, free running
inline constexpr std::uint64_t kCompleted =
    0x30;                                         // u32, RO: descriptors completed since enable, free running
inline constexpr std::uint64_t kJobsDone = 0x38;  // u64, RO: descriptors completed since power-on
inline constexpr std::uint64_t kInterruptsRaised = 0x40;  // u64, RO: since power-on
}  // namespace reg

inline constexpr std::uint32_t kIdValue = 0x31434341;  // "ACC1"
inline constexpr std::uint32_t kMaxRingEntries = 4096;

inline constexpr std::uint32_t kStatusReady = 1;
inline constexpr std::uint32_t kStatusEnabled = 2;
inline constexpr std::uint32_t kStatusError =
    4;  ///< bad ring or a DMA fault on a ring; only disabling clears it

inline constexpr std::uint32_t kControlEnable =
    1;  ///< 0 to 1: counts start at 0; 1 to 0: drops what is not done
inline constexpr std::uint32_t kControlInterrupt = 2;

enum class Operation : std::uint32_t {
  copy_in = 1,   ///< guest memory to device memory
  copy_out = 2,  ///< device memory to guest memory
  fill = 3,      ///< device memory with the 8-byte pattern, from the range's first byte on
  hash = 4,      ///< XXH3 (64 bits, seed 0) of device memory; the completion's result
};

enum class JobStatus : std::uint32_t { ok = 0, bad_operation = 1, out_of_range = 2, dma_fault = 3 };

/// A submission ring entry: 64 bytes.
struct Descriptor {
  std::uint64_t id;
  std::uint32_t operation;
  std::uint32_t reserved0;
  std::uint64_t guest_address;
  std::uint64_t device_offset;
  std::uint64_t length;
  std::uint64_t pattern;
  std::uint64_t reserved1[2];
};
static_assert(sizeof(Descriptor) == 64);

/// A completion ring entry: 32 bytes.  Entry k of the ring is written for completions k, k + entries, ...
struct CompletionRecord {
  std::uint64_t id;      ///< of the descriptor
  std::uint32_t status;  ///< JobStatus
  std::uint32_t
      sequence;  ///< completions since enable, this one included: tells a new record from an old one
  std::uint64_t result;
  std::uint64_t reserved;
};
static_assert(sizeof(CompletionRecord) == 32);

}  // namespace handover::accelerator
