#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "handover/channel/channel.h"

namespace handover::test {

/// A channel that reads given bytes, at most `step` at a time, and keeps what is written.
class MemoryChannel final : public Channel {
 public:
  explicit MemoryChannel(std::vector<std::byte> input = {}, std::size_t step = SIZE_MAX)
      : input_(std::move(input)), step_(step) {}

  Result<std::size_t> read_some(std::span<const iovec> buffers) override {
    std::size_t total = 0;
    for (const iovec& one : buffers) {
      const std::size_t now = std::min({one.iov_len, input_.size() - at_, step_ - total});
      if (now > 0) std::memcpy(one.iov_base, input_.data() + at_, now);
      at_ += now;
      total += now;
    }
    return total;
  }
  Status write_all(std::span<const iovec> buffers) override {
    ++writes;
    if (fail_writes) return fail(Errc::io, "memory is full");
    for (const iovec& one : buffers) {
      const auto* bytes = static_cast<const std::byte*>(one.iov_base);
      output.insert(output.end(), bytes, bytes + one.iov_len);
    }
    return {};
  }
  void shutdown() override {}
  bool two_way() const override { return true; }
  const std::string& name() const override { return name_; }
  using Channel::read_some;
  using Channel::write_all;

  std::vector<std::byte> output;
  std::size_t writes = 0;
  bool fail_writes = false;

 private:
  std::string name_ = "memory";
  std::vector<std::byte> input_;
  std::size_t step_;
  std::size_t at_ = 0;
};

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

}  // namespace handover::test
