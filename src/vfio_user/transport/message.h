#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <vector>

#include "handover/base/byte_writer.h"
#include "handover/base/unique_fd.h"
#include "handover/vfio_user/protocol.h"

namespace handover::vfio_user {

/// One message as it arrived; the descriptors close with it unless somebody takes them.
struct Message {
  protocol::Header header;
  std::vector<std::byte> payload;
  std::vector<UniqueFd> fds;

  protocol::Command command() const { return static_cast<protocol::Command>(header.command); }
};

/// One message on its way out: header and payload in one buffer, so that they leave in one piece.
class MessageBuilder {
 public:
  MessageBuilder() { out_.zeros(protocol::kHeaderSize); }

  NativeWriter& payload() { return out_; }
  template <protocol::FixedPart T>
  MessageBuilder& add(const T& part) {
    protocol::encode(out_, part);
    return *this;
  }
  template <class T>
    requires requires(const T& t, NativeWriter& w) { t.encode(w); }
  MessageBuilder& add(const T& part) {
    part.encode(out_);
    return *this;
  }
  MessageBuilder& data(std::span<const std::byte> bytes) {
    out_.bytes(bytes);
    return *this;
  }

  /// Drops what the payload has beyond `size` bytes.
  void cut(std::size_t size) { size_ = std::min(size_, protocol::kHeaderSize + size); }
  /// Writes a fixed part over what stands at `offset` of the payload.
  template <protocol::FixedPart T>
  void overwrite(std::size_t offset, const T& part) {
    NativeWriter bytes;
    protocol::encode(bytes, part);
    std::ranges::copy(bytes.view(), out_.view().subspan(protocol::kHeaderSize + offset).begin());
  }

  /// Fills in the header, its size included, and gives the bytes away.
  std::vector<std::byte> finish(protocol::Header header) {
    auto size = std::min(size_, out_.size());
    header.size = static_cast<std::uint32_t>(size);
    NativeWriter head;
    protocol::encode(head, header);
    std::ranges::copy(head.view(), out_.view().begin());
    auto bytes = out_.take();
    bytes.resize(size);
    return bytes;
  }

 private:
  NativeWriter out_;
  std::size_t size_ = static_cast<std::size_t>(-1);
};

/// The header of the reply to a command; `error` is an errno or 0.
inline protocol::Header reply_header(const protocol::Header& command, int error = 0) {
  protocol::Header header;
  header.id = command.id;
  header.command = command.command;
  header.flags = protocol::kFlagReply | (error ? protocol::kFlagError : 0);
  header.error = static_cast<std::uint32_t>(error);
  return header;
}

}  // namespace handover::vfio_user
