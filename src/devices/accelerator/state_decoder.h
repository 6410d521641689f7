#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/accelerator/device_memory.h"
#include "devices/accelerator/device_record.h"
#include "devices/accelerator/stream_format.h"

namespace handover::accelerator {

/// One resuming session: takes the stream in pieces cut anywhere and believes none of it.
///
/// Pages go straight into device memory, which must be cleared before and, after a failure, again; all else
/// is kept here until finish().  Errors are remembered: after one, every call fails with it.
class StateDecoder {
 public:
  struct Loaded {
    DeviceRecord record;
    std::vector<std::byte> window;
  };

  explicit StateDecoder(DeviceMemory& memory);

  Status write(std::span<const std::byte> from);
  /// Fails unless the stream is complete.
  Result<Loaded> finish();

 private:
  enum class Stage { preamble, header, payload, page_data, checksum };

  Status take(std::span<const std::byte>& from);
  Status begin(Stage stage, std::size_t size);
  Status collected();
  Status check_preamble();
  Status check_header();
  Status check_pages_header();
  Status check_frame();
  Status apply();
  Status apply_configuration();
  Status apply_written_map();
  Status apply_zero_pages();
  Status apply_end();
  std::size_t payload_size(stream::FrameType type) const;

  struct FreeHash {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  DeviceMemory& memory_;
  std::unique_ptr<XXH3_state_t, FreeHash> hash_;
  std::optional<Error> error_;

  Stage stage_ = Stage::preamble;
  std::vector<std::byte> buffer_;   // what is collected
  std::size_t wanted_ = 0;          // its size when complete
  std::span<std::byte> page_data_;  // where the next page bytes go
  std::uint64_t position_ = 0;      // in the stream
  std::uint64_t frames_ = 0;
  stream::FrameType type_{};
  std::uint32_t length_ = 0;

  bool configured_ = false;
  bool mapped_ = false;
  bool ended_ = false;
  std::optional<DeviceRecord> record_;
  std::vector<std::byte> window_;
};

}  // namespace handover::accelerator
