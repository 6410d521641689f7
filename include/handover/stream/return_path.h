#pragma once

#include <cstdint>
#include <string>

#include "handover/base/result.h"
#include "handover/stream/format.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

/// The return path: what a destination answers on the reverse direction of the main channel
/// (qemu-stream 3.2).
namespace handover::stream {

/// One message; which members count depends on the type.
struct ReplyMessage {
  Reply type = Reply::shut;
  std::uint32_t value = 0;   ///< SHUT: 0 for success; PONG: the token; RESUME_ACK: 1
  std::uint64_t start = 0;   ///< REQ_PAGES, REQ_PAGES_ID: offset in the block
  std::uint32_t length = 0;  ///< REQ_PAGES, REQ_PAGES_ID: bytes
  std::string block{};       ///< REQ_PAGES_ID
  // LOAD_PROGRESS:
  std::uint32_t section = 0;        ///< id in the source's stream
  std::uint64_t bytes = 0;          ///< loaded by the item so far
  std::uint64_t busy_ns = 0;        ///< time that took
  std::uint64_t packet_charge = 0;  ///< of those that came in packets
  std::uint64_t room = 0;           ///< bytes of packets that may wait to be loaded
  bool operator==(const ReplyMessage&) const = default;
};

/// As people write it: `SWITCHOVER_ACK`.
std::string_view reply_name(Reply type);

/// One thread.  Every message goes out at once.  RECV_BITMAP cannot be written: postcopy recovery is not
/// known here.
class ReturnPathWriter {
 public:
  explicit ReturnPathWriter(Channel& channel) : out_(channel) {}

  Status send(const ReplyMessage& message);
  Status pong(std::uint32_t token) { return send({.type = Reply::pong, .value = token}); }
  Status switchover_ack() { return send({.type = Reply::switchover_ack}); }
  /// The last message: 0 says that everything is loaded, anything else that it failed.
  Status shut(std::uint32_t value) { return send({.type = Reply::shut, .value = value}); }

 private:
  StreamWriter out_;
};

/// One thread.  A source reads continuously; losing the connection before SHUT is a failure of the migration.
class ReturnPathReader {
 public:
  explicit ReturnPathReader(Channel& channel) : in_(channel, 4096) {}

  /// The next message.  The end of the channel is Errc::closed; unknown types, lengths that do not fit the
  /// type or exceed kMaxReplyPayload, and RECV_BITMAP are refused.
  Result<ReplyMessage> next();

 private:
  StreamReader in_;
};

}  // namespace handover::stream
