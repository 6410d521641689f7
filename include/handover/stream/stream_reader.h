#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "handover/base/byte_order.h"
#include "handover/base/result.h"
#include "handover/channel/channel.h"

namespace handover {

/// Reads a migration stream from a channel, with a buffer of its own; every failure names the offset.
///
/// One thread.  Large reads go straight to their destination once the buffer is empty.
class StreamReader {
 public:
  explicit StreamReader(Channel& channel, std::size_t buffer_bytes = 256 * 1024);
  StreamReader(const StreamReader&) = delete;
  StreamReader& operator=(const StreamReader&) = delete;

  Result<std::uint8_t> u8() { return integer<std::uint8_t>(); }
  Result<std::uint16_t> be16() { return integer<std::uint16_t>(); }
  Result<std::uint32_t> be32() { return integer<std::uint32_t>(); }
  Result<std::uint64_t> be64() { return integer<std::uint64_t>(); }
  /// Fills the whole destination.
  Status bytes(std::span<std::byte> destination);
  /// Fills all of the destinations, one after the other; their descriptions are used up.
  Status scatter(std::span<iovec> destinations);
  /// One length byte and that many characters.
  Result<std::string> str8();
  Status skip(std::uint64_t count);

  /// The next bytes without taking them; `count` at most kMaxPeek.  Fewer come back only at the end.
  Result<std::span<const std::byte>> peek(std::size_t count);
  /// What is in the buffer already, without reading or taking it.
  std::span<const std::byte> buffered() const { return {buffer_.get() + begin_, end_ - begin_}; }
  /// True if the channel has ended and the buffer is empty; waits for a byte to know.
  Result<bool> at_end();

  /// Offset in the stream of the next byte.
  std::uint64_t offset() const { return offset_; }
  Channel& channel() { return channel_; }

  static constexpr std::size_t kMaxPeek = 512;

 private:
  template <std::unsigned_integral T>
  Result<T> integer() {
    if (end_ - begin_ < sizeof(T)) HANDOVER_TRY(fill(sizeof(T)));
    T value = load_be<T>(buffer_.get() + begin_);
    begin_ += sizeof(T);
    offset_ += sizeof(T);
    return value;
  }
  /// Reads until `count` bytes are buffered; the end before that is Errc::closed with the offset.
  Status fill(std::size_t count);

  Channel& channel_;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t capacity_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t offset_ = 0;
};

}  // namespace handover
