#pragma once

#include <cstring>
#include <vector>

#include "handover/channel/channel.h"
#include "handover/stream/migratable.h"

namespace handover::test {

/// Keeps what is written and gives it back.
class ByteChannel final : public Channel {
 public:
  using Channel::read_some;
  using Channel::write_all;
  Result<std::size_t> read_some(std::span<const iovec> buffers) override {
    std::size_t total = 0;
    for (const auto& buffer : buffers) {
      const std::size_t count = std::min(buffer.iov_len, bytes.size() - at_);
      if (count > 0) std::memcpy(buffer.iov_base, bytes.data() + at_, count);
      at_ += count;
      total += count;
    }
    return total;
  }
  Status write_all(std::span<const iovec> buffers) override {
    for (const auto& buffer : buffers) {
      const auto* from = static_cast<const std::byte*>(buffer.iov_base);
      bytes.insert(bytes.end(), from, from + buffer.iov_len);
    }
    return {};
  }
  void shutdown() override {}
  bool two_way() const override { return false; }
  const std::string& name() const override { return name_; }

  std::vector<std::byte> bytes;

 private:
  std::size_t at_ = 0;
  std::string name_ = "memory";
};

/// What `save(StreamWriter&)` writes.
template <class Save>
std::vector<std::byte> bytes_of(Save save) {
  ByteChannel channel;
  StreamWriter out(channel);
  Status saved = save(out);
  if (saved) saved = out.flush();
  if (!saved) throw std::runtime_error(saved.error().to_string());
  return channel.bytes;
}

/// Lets `load(StreamReader&)` read them.
template <class Load>
Status load_from(std::vector<std::byte> bytes, Load load) {
  ByteChannel channel;
  channel.bytes = std::move(bytes);
  StreamReader in(channel);
  return load(in);
}

}  // namespace handover::test
