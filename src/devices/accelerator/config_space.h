#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "handover/base/result.h"

namespace handover::accelerator {

/// The 256 bytes of PCI configuration space.
///
/// Every bit is either read-only or plain storage, so any size and offset of access is the same loop over
/// bytes.  The device has no INTx pin.  The bus-master and memory bits are stored and not enforced: the VMM
/// decides what reaches the device.  Owned by the server's loop.
class ConfigSpace {
 public:
  static constexpr std::size_t kSize = 256;
  static constexpr std::size_t kMsixCapability = 0x40;

  ConfigSpace() { reset(); }

  void reset();
  /// The range must lie inside the space.
  void read(std::size_t offset, std::span<std::byte> to) const;
  /// Read-only bits keep their value.
  void write(std::size_t offset, std::span<const std::byte> from);

  std::span<const std::byte, kSize> bytes() const { return bytes_; }
  /// Takes the bytes of another such device; fails, and changes nothing, if a read-only bit differs.
  Status load(std::span<const std::byte, kSize> bytes);

 private:
  std::array<std::byte, kSize> bytes_;
};

}  // namespace handover::accelerator
