#include "handover/stream/return_path.h"

#include <algorithm>

#include "handover/base/byte_reader.h"
#include "handover/base/byte_writer.h"

namespace handover::stream {
namespace {

struct Row {
  Reply type;
  std::string_view name;
  int length;  ///< -1: depends on the block's name
};

constexpr Row kReplies[] = {
    {Reply::shut, "SHUT", 4},
    {Reply::pong, "PONG", 4},
    {Reply::req_pages_id, "REQ_PAGES_ID", -1},
    {Reply::req_pages, "REQ_PAGES", 12},
    {Reply::recv_bitmap, "RECV_BITMAP", -1},
    {Reply::resume_ack, "RESUME_ACK", 4},
    {Reply::switchover_ack, "SWITCHOVER_ACK", 0},
    {Reply::load_progress, "LOAD_PROGRESS", 36},
};

const Row* find(Reply type) {
  const auto* row = std::ranges::find(kReplies, type, &Row::type);
  return row == std::end(kReplies) ? nullptr : row;
}

bool has_value(Reply type) {
  return type == Reply::shut || type == Reply::pong || type == Reply::resume_ack;
}

bool has_range(Reply type) {
  return type == Reply::req_pages || type == Reply::req_pages_id;
}

Result<ReplyMessage> decode(Reply type, std::span<const std::byte> payload) {
  if (type == Reply::recv_bitmap) return fail(Errc::unsupported, "postcopy recovery is not supported");
  BeReader in(payload);
  ReplyMessage message;
  message.type = type;
  if (has_value(type)) {
    HANDOVER_ASSIGN(message.value, in.u32());
  }
  if (has_range(type)) {
    HANDOVER_ASSIGN(message.start, in.u64());
    HANDOVER_ASSIGN(message.length, in.u32());
  }
  if (type == Reply::req_pages_id) {
    HANDOVER_ASSIGN(message.block, in.str8());
  }
  if (type == Reply::load_progress) {
    HANDOVER_ASSIGN(message.section, in.u32());
    HANDOVER_ASSIGN(message.bytes, in.u64());
    HANDOVER_ASSIGN(message.busy_ns, in.u64());
    HANDOVER_ASSIGN(message.packet_charge, in.u64());
    HANDOVER_ASSIGN(message.room, in.u64());
  }
  if (in.remaining() != 0) return fail(Errc::protocol, "{} bytes too many", in.remaining());
  return message;
}

std::vector<std::byte> encode(const ReplyMessage& message) {
  BeWriter out;
  if (has_value(message.type)) out.u32(message.value);
  if (has_range(message.type)) {
    out.u64(message.start);
    out.u32(message.length);
  }
  if (message.type == Reply::req_pages_id) {
    out.u8(static_cast<std::uint8_t>(message.block.size()));
    out.text(message.block);
  }
  if (message.type == Reply::load_progress) {
    out.u32(message.section);
    for (const auto value : {message.bytes, message.busy_ns, message.packet_charge, message.room})
      out.u64(value);
  }
  return out.take();
}

}  // namespace

std::string_view reply_name(Reply type) {
  const Row* row = find(type);
  return row != nullptr ? row->name : "unknown";
}

Status ReturnPathWriter::send(const ReplyMessage& message) {
  if (message.type == Reply::recv_bitmap || find(message.type) == nullptr)
    return fail(Errc::unsupported, "message {} cannot be sent", reply_name(message.type));
  if (message.block.size() > 255)
    return fail(Errc::invalid_argument, "block name of {} bytes", message.block.size());
  const auto payload = encode(message);
  out_.be16(static_cast<std::uint16_t>(message.type));
  out_.be16(static_cast<std::uint16_t>(payload.size()));
  out_.bytes(payload);
  return out_.flush();
}

Result<ReplyMessage> ReturnPathReader::next() {
  const std::uint64_t at = in_.offset();
  HANDOVER_ASSIGN_CONTEXT(auto number, in_.be16(), "return path");
  HANDOVER_ASSIGN_CONTEXT(auto length, in_.be16(), "return path");
  const Row* row = find(static_cast<Reply>(number));
  if (row == nullptr)
    return fail(Errc::protocol, "the destination sent an unknown message {} at offset {} of the return path",
                number, at);
  if (length > kMaxReplyPayload || (row->length >= 0 && length != row->length))
    return fail(Errc::protocol, "the destination sent {} with {} bytes at offset {} of the return path",
                row->name, length, at);
  std::byte payload[kMaxReplyPayload];
  const auto used = std::span(payload).first(length);
  HANDOVER_TRY_CONTEXT(in_.bytes(used), "return path, in {}", row->name);
  auto message = decode(row->type, used);
  if (!message)
    return std::unexpected(std::move(message).error().with_context(
        fmt::format("the destination sent {} at offset {} of the return path", row->name, at)));
  return message;
}

}  // namespace handover::stream
