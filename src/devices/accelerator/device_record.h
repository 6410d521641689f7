#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "devices/accelerator/config_space.h"
#include "devices/accelerator/engine.h"
#include "handover/base/result.h"

namespace handover::accelerator {

/// Everything of a stopped accelerator but its memory and window.
struct DeviceRecord {
  std::array<std::byte, ConfigSpace::kSize> config{};
  std::array<std::byte, kMsixBarSize> msix{};
  EngineState engine;

  /// What encode() returns, always.
  static std::size_t encoded_size();
  std::vector<std::byte> encode() const;
  /// Fails unless the bytes are exactly one record that a device with `memory_size` can be in.
  static Result<DeviceRecord> decode(std::span<const std::byte> bytes, std::uint64_t memory_size);
};

}  // namespace handover::accelerator
