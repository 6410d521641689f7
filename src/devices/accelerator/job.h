#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "devices/accelerator/device_memory.h"
#include "devices/accelerator/interface.h"
#include "handover/vfio_user/device_model.h"

namespace handover::accelerator {

/// A descriptor that the device has fetched and how far it is.
struct Job {
  Descriptor descriptor{};
  std::uint64_t bytes_done = 0;
  JobStatus status = JobStatus::ok;
  std::uint64_t result = 0;
  bool executed = false;  ///< only the completion record is missing
};

Descriptor decode_descriptor(std::span<const std::byte, sizeof(Descriptor)> bytes);
void encode_record(const CompletionRecord& record, std::span<std::byte, sizeof(CompletionRecord)> bytes);

/// True if a bus call failed because there is no client, which is no fault of the driver's: the work waits.
bool client_is_gone(const Error& error);

/// Carries jobs out, a piece at a time.  One thread.
///
/// A job can be left after any piece, and be gone on with here or, from its Job alone, by another device.
/// A hash that another device goes on with must start at byte 0: what is hashed so far is kept only here.
class JobRunner {
 public:
  static constexpr std::uint64_t kPiece = 64 * KiB;

  explicit JobRunner(DeviceMemory& memory);

  /// The next piece.  A bad descriptor or a DMA fault becomes the job's status; only a client that is gone
  /// is an error, and leaves the job as it was.
  Status step(Job& job, vfio_user::DeviceBus& bus);

 private:
  struct FreeHash {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  Status do_piece(Job& job, std::uint64_t length, vfio_user::DeviceBus& bus);

  DeviceMemory& memory_;
  std::unique_ptr<XXH3_state_t, FreeHash> hash_;
};

}  // namespace handover::accelerator
