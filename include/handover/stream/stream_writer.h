#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "handover/base/byte_order.h"
#include "handover/base/result.h"
#include "handover/channel/channel.h"

namespace handover {

/// Writes big-endian integers and bytes of a migration stream to a channel.
///
/// Small values are gathered in a buffer; page_ref() only remembers where a page is, and the page goes
/// straight from guest memory into the socket at the next flush.  One thread.  The first channel error
/// sticks: later calls do nothing, and flush() and status() return it.
class StreamWriter {
 public:
  explicit StreamWriter(Channel& channel);
  StreamWriter(const StreamWriter&) = delete;
  StreamWriter& operator=(const StreamWriter&) = delete;

  void u8(std::uint8_t value) { integer(value); }
  void be16(std::uint16_t value) { integer(value); }
  void be32(std::uint32_t value) { integer(value); }
  void be64(std::uint64_t value) { integer(value); }
  void bytes(std::span<const std::byte> part);
  void text(std::string_view part) { bytes(std::as_bytes(std::span(part))); }
  /// One length byte and the characters; at most 255 of them (ours; aborts beyond).
  void str8(std::string_view part);
  void zeros(std::size_t count);
  /// Bytes that stay mapped until the next flush(); they are read then, not now.
  void page_ref(std::span<const std::byte> page);

  /// Hands everything to the channel.
  Status flush();
  Status status() const;
  /// Bytes written since construction, flushed or not.
  std::uint64_t position() const { return position_; }
  Channel& channel() { return channel_; }

 private:
  template <std::unsigned_integral T>
  void integer(T value) {
    std::byte raw[sizeof value];
    store_be(raw, value);
    bytes(raw);
  }
  void close_small_run();

  static constexpr std::size_t kSmallBytes = 64 * 1024;
  static constexpr std::size_t kMaxPieces = 1024;  // IOV_MAX

  Channel& channel_;
  std::unique_ptr<std::byte[]> small_;
  std::size_t small_used_ = 0;
  std::size_t run_start_ = 0;  // small bytes from here on are in no piece yet
  std::vector<iovec> pieces_;
  std::uint64_t position_ = 0;
  Status status_;
};

}  // namespace handover
