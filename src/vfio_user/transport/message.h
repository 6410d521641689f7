#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <vector>

#include "handover/base/byte_writer.h"
#include "handover/base/unique_fd.h"
#include "handover/vfio_user/protocol.h"
#include "vfio_user/transport/payload.h"

namespace handover::vfio_user {

/// One message as it arrived; the descriptors close with it unless somebody takes them.
struct Message {
  protocol::Header header;
  Payload payload;
  std::size_t landed = 0;  ///< bytes after the payload that went where the reader was told (FrameReader)
  std::vector<UniqueFd> fds;

  protocol::Command command() const { return static_cast<protocol::Command>(header.command); }
};

/// One message on its way out: header and payload in one buffer.
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

  /// Fills in the header, its size included, and gives the bytes away.  `following` bytes more belong to the
  /// message, and are sent after these.
  std::vector<std::byte> finish(protocol::Header header, std::size_t following = 0) {
    header.size = static_cast<std::uint32_t>(out_.size() + following);
    NativeWriter head;
    protocol::encode(head, header);
    std::ranges::copy(head.view(), out_.view().begin());
    return out_.take();
  }

 private:
  NativeWriter out_;
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
