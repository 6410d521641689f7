#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "handover/channel/channel.h"

namespace handover::test {

/// Collects what is written, and gives it back when read; at most `chunk` bytes a read.
class MemoryChannel final : public Channel {
 public:
  MemoryChannel() = default;
  explicit MemoryChannel(std::vector<std::byte> content, std::size_t chunk = 1u << 20)
      : bytes(std::move(content)), chunk_(chunk) {}

  using Channel::read_some;
  using Channel::write_all;
  Result<std::size_t> read_some(std::span<const iovec> buffers) override {
    std::size_t total = 0;
    for (const auto& part : buffers) {
      const std::size_t now = std::min({part.iov_len, bytes.size() - position_, chunk_ - total});
      if (now > 0) std::memcpy(part.iov_base, bytes.data() + position_, now);
      position_ += now;
      total += now;
    }
    return total;
  }
  Status write_all(std::span<const iovec> buffers) override {
    if (fail_writes) return fail(Errc::closed, "the peer is gone");
    for (const auto& part : buffers) {
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      bytes.insert(bytes.end(), from, from + part.iov_len);
    }
    return {};
  }
  void shutdown() override {}
  bool two_way() const override { return false; }
  const std::string& name() const override { return name_; }

  std::vector<std::byte> bytes;
  bool fail_writes = false;

 private:
  std::size_t position_ = 0;
  std::size_t chunk_ = 1u << 20;
  std::string name_ = "memory";
};

}  // namespace handover::test
