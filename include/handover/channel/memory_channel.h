#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "handover/channel/channel.h"

namespace handover {

/// Reads bytes that are in memory already, and keeps what is written: for a part of a stream that travels in
/// one piece.  One thread.
class MemoryChannel final : public Channel {
 public:
  /// The bytes outlive the channel.
  explicit MemoryChannel(std::string name, std::span<const std::byte> input = {})
      : name_(std::move(name)), input_(input) {}

  using Channel::read_some;
  using Channel::write_all;
  Result<std::size_t> read_some(std::span<const iovec> buffers) override {
    std::size_t total = 0;
    for (const iovec& one : buffers) {
      const std::size_t now = std::min(one.iov_len, input_.size());
      if (now > 0) std::memcpy(one.iov_base, input_.data(), now);
      input_ = input_.subspan(now);
      total += now;
    }
    return total;
  }
  Status write_all(std::span<const iovec> buffers) override {
    for (const iovec& one : buffers) {
      const auto* bytes = static_cast<const std::byte*>(one.iov_base);
      output_.insert(output_.end(), bytes, bytes + one.iov_len);
    }
    return {};
  }
  void shutdown() override {}
  bool two_way() const override { return false; }
  const std::string& name() const override { return name_; }

  const std::vector<std::byte>& output() const { return output_; }

 private:
  std::string name_;
  std::span<const std::byte> input_;
  std::vector<std::byte> output_;
};

}  // namespace handover
