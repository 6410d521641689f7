#pragma once

#include <cstddef>
#include <functional>
#include <optional>

#include "handover/base/result.h"
#include "vfio_user/transport/message.h"

namespace handover::vfio_user {

/// Cuts the byte stream of a socket into messages.
///
/// The 16-byte header is read alone: the descriptors that come with it then belong to this message and no
/// other.  Headers and payloads may arrive in any number of pieces.  One thread at a time; never blocks.
class FrameReader {
 public:
  explicit FrameReader(std::size_t max_size) : max_size_(max_size) {}

  /// Where the bytes of a payload after its first `head` go, instead of into Message::payload.
  struct Landing {
    std::size_t head = 0;
    std::span<std::byte> to;  ///< a payload that has more stays whole; must live until the message is read
  };
  /// `ask` is called by read() when a message has begun.
  void set_landing(std::function<Landing(const protocol::Header&)> ask) { ask_landing_ = std::move(ask); }

  /// The largest message that is accepted, header included.
  void set_max_size(std::size_t max_size) { max_size_ = max_size; }

  /// The next message, or nothing if it is not complete yet.  Errc::closed: the peer ended the stream;
  /// Errc::limit: a size below 16 or above the limit, refused() has the header; Errc::protocol: descriptors
  /// were lost.  After an error the stream has no known message boundary any more.
  Result<std::optional<Message>> read(int socket);
  const std::optional<protocol::Header>& refused() const { return refused_; }

 private:
  Result<std::size_t> receive(int socket, std::span<std::byte> to);
  Status begin_payload();

  std::size_t max_size_;
  std::function<Landing(const protocol::Header&)> ask_landing_;
  std::span<std::byte> landing_;
  Message message_;
  std::byte header_[protocol::kHeaderSize];
  std::size_t have_ = 0;  // of header and payload
  std::optional<protocol::Header> refused_;
};

}  // namespace handover::vfio_user
