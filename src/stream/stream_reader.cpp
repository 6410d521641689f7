#include "handover/stream/stream_reader.h"

#include <algorithm>
#include <cstring>

namespace handover {
namespace {

std::unexpected<Error> ended(const Channel& channel, std::uint64_t offset, std::uint64_t missing) {
  return fail(Errc::closed, "{} ends at offset {}, {} byte{} too early", channel.name(), offset, missing,
              missing == 1 ? "" : "s");
}

}  // namespace

StreamReader::StreamReader(Channel& channel, std::size_t buffer_bytes)
    : channel_(channel), capacity_(std::max(buffer_bytes, 2 * kMaxPeek)) {
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
}

Status StreamReader::fill(std::size_t count) {
  HANDOVER_ASSIGN(auto got, peek(count));
  if (got.size() < count) return ended(channel_, offset_ + got.size(), count - got.size());
  return {};
}

Result<std::span<const std::byte>> StreamReader::peek(std::size_t count) {
  count = std::min(count, kMaxPeek);
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ + count > capacity_) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ - begin_ < count) {
    HANDOVER_ASSIGN_CONTEXT(auto got, channel_.read_some(std::span(buffer_.get() + end_, capacity_ - end_)),
                            "at stream offset {}", offset_ + (end_ - begin_));
    if (got == 0) break;
    end_ += got;
  }
  return std::span<const std::byte>(buffer_.get() + begin_, std::min(count, end_ - begin_));
}

Status StreamReader::bytes(std::span<std::byte> destination) {
  const std::size_t ready = std::min(destination.size(), end_ - begin_);
  if (ready > 0) std::memcpy(destination.data(), buffer_.get() + begin_, ready);
  begin_ += ready;
  offset_ += ready;
  destination = destination.subspan(ready);
  while (!destination.empty()) {
    // The buffer is empty: what arrives goes where it belongs, and only what is left over is buffered.
    const iovec parts[] = {{destination.data(), destination.size()}, {buffer_.get(), capacity_}};
    HANDOVER_ASSIGN_CONTEXT(auto got, channel_.read_some(parts), "at stream offset {}", offset_);
    if (got == 0) return ended(channel_, offset_, destination.size());
    const std::size_t used = std::min(got, destination.size());
    destination = destination.subspan(used);
    offset_ += used;
    begin_ = 0;
    end_ = got - used;
  }
  return {};
}

Status StreamReader::scatter(std::span<iovec> destinations) {
  // Takes `count` bytes off the front of what is still wanted.
  const auto advance = [&destinations](std::size_t count) {
    while (!destinations.empty() && count >= destinations.front().iov_len) {
      count -= destinations.front().iov_len;
      destinations = destinations.subspan(1);
    }
    if (count == 0) return;
    auto& first = destinations.front();
    first.iov_base = static_cast<std::byte*>(first.iov_base) + count;
    first.iov_len -= count;
  };
  while (!destinations.empty() && begin_ < end_) {
    const std::size_t ready = std::min(destinations.front().iov_len, end_ - begin_);
    if (ready > 0) std::memcpy(destinations.front().iov_base, buffer_.get() + begin_, ready);
    begin_ += ready;
    offset_ += ready;
    advance(ready);
  }
  while (!destinations.empty()) {
    HANDOVER_ASSIGN_CONTEXT(auto got, channel_.read_some(destinations), "at stream offset {}", offset_);
    if (got == 0) return ended(channel_, offset_, destinations.front().iov_len);
    offset_ += got;
    advance(got);
  }
  return {};
}

Result<std::string> StreamReader::str8() {
  HANDOVER_ASSIGN(auto length, u8());
  std::string text(length, '\0');
  HANDOVER_TRY(bytes(std::as_writable_bytes(std::span(text))));
  return text;
}

Status StreamReader::skip(std::uint64_t count) {
  for (;;) {
    const auto now = static_cast<std::size_t>(std::min<std::uint64_t>(count, end_ - begin_));
    begin_ += now;
    offset_ += now;
    count -= now;
    if (count == 0) return {};
    if (count > capacity_) {
      HANDOVER_ASSIGN(auto leapt, channel_.skip_some(count));
      offset_ += leapt;
      count -= leapt;
      if (leapt > 0) continue;
    }
    HANDOVER_ASSIGN_CONTEXT(auto got, channel_.read_some(std::span(buffer_.get(), capacity_)),
                            "at stream offset {}", offset_);
    if (got == 0) return ended(channel_, offset_, count);
    begin_ = 0;
    end_ = got;
  }
}

Result<bool> StreamReader::at_end() {
  HANDOVER_ASSIGN(auto next, peek(1));
  return next.empty();
}

}  // namespace handover
