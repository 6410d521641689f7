#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "handover/base/mapping.h"
#include "handover/base/result.h"

namespace handover::stream {

/// The bytes of one RAM block as the stream makes them, starting from zeros.  Memory that was never written,
/// or only with zeros, takes no room.
class RamContent {
 public:
  static Result<RamContent> make(std::uint64_t length);

  std::span<std::byte> page(std::uint64_t offset, std::uint64_t size) {
    return memory_.span().subspan(offset, size);
  }
  void clear(std::uint64_t offset, std::uint64_t size);
  std::string sha256() const;

 private:
  Mapping memory_;
};

}  // namespace handover::stream
