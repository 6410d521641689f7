#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "devices/accelerator/device_memory.h"
#include "devices/accelerator/device_record.h"
#include "devices/accelerator/stream_format.h"
#include "handover/vfio_abi/device_info.h"

namespace handover::accelerator {

/// One saving session: the device's state as a stream, while the engine may go on writing.
///
/// The loop owns it.  Page content is copied once, from device memory into the caller's buffer.
class StateEncoder {
 public:
  /// Begins with all memory that was ever written.  `window` is read at finish().
  StateEncoder(DeviceMemory& memory, std::span<const std::byte> window);

  /// The engine is quiet for good: what is left and the record become the end of the stream.
  void finish(const DeviceRecord& record);

  /// The next bytes.  Fewer than asked for: nothing more now, after finish() nothing more at all.
  /// Before finish() one call looks at 64 MiB of memory at the most.
  std::size_t read(std::span<std::byte> to);

  vfio::PrecopyInfo precopy_info() const;
  /// Bytes of the stream if the device stopped now.
  std::uint64_t stop_copy_size() const;
  /// The same for a device without a session.
  static std::uint64_t stop_copy_size(const DeviceMemory& memory);

 private:
  void append_frame(stream::FrameType type, std::span<const std::byte> payload);
  void append_configuration();
  void append_written_map();
  /// Frames with the next dirty pages into `out`, which has room for a page's frame at least; 0: none now.
  std::size_t next_pages(std::span<std::byte> out);
  std::size_t pages_from(PageRun run, std::span<std::byte> out);
  std::size_t put_pages(PageRun run, std::span<std::byte> out);
  std::size_t put_zero_pages(PageRun run, std::span<std::byte> out);
  void seal(std::span<std::byte> frame, stream::FrameType type);
  bool serve_staged(std::span<std::byte> to, std::size_t& filled);

  DeviceMemory& memory_;
  std::span<const std::byte> window_;
  std::uint64_t frames_ = 0;
  std::vector<std::byte> staged_;  // frames that are cut between two reads
  std::size_t staged_at_ = 0;
  std::size_t initial_left_ = 0;
  std::uint64_t cursor_ = 0;
  std::uint64_t budget_ = 0;  // pages that this read may still look at
  std::vector<bool> sent_;    // pages that the other side holds with something other than zero
  bool finished_ = false;
  bool ended_ = false;
  std::vector<std::byte> record_;
};

}  // namespace handover::accelerator
