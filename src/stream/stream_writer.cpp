#include "handover/stream/stream_writer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "handover/base/log.h"

namespace handover {

StreamWriter::StreamWriter(Channel& channel)
    : channel_(channel), small_(std::make_unique_for_overwrite<std::byte[]>(kSmallBytes)) {
  pieces_.reserve(kMaxPieces);
}

void StreamWriter::bytes(std::span<const std::byte> part) {
  position_ += part.size();
  if (!status_) return;
  if (part.size() >= kSmallBytes) {
    // Large enough to go out on its own, without a copy, together with what was gathered before it.
    close_small_run();
    pieces_.push_back({const_cast<std::byte*>(part.data()), part.size()});
    (void)flush();
    return;
  }
  if (part.size() > kSmallBytes - small_used_) (void)flush();
  if (part.empty()) return;
  std::memcpy(small_.get() + small_used_, part.data(), part.size());
  small_used_ += part.size();
}

void StreamWriter::str8(std::string_view part) {
  if (part.size() > 255) {
    log::error("a name of {} bytes does not fit the stream", part.size());
    std::abort();
  }
  u8(static_cast<std::uint8_t>(part.size()));
  text(part);
}

void StreamWriter::zeros(std::size_t count) {
  static constexpr std::byte kZeros[4096]{};
  while (count > 0) {
    const std::size_t now = std::min(count, sizeof kZeros);
    bytes(std::span(kZeros, now));
    count -= now;
  }
}

void StreamWriter::page_ref(std::span<const std::byte> page) {
  position_ += page.size();
  if (!status_ || page.empty()) return;
  close_small_run();
  pieces_.push_back({const_cast<std::byte*>(page.data()), page.size()});
  if (pieces_.size() + 1 >= kMaxPieces) (void)flush();  // the next small run needs a piece too
}

void StreamWriter::close_small_run() {
  if (run_start_ == small_used_) return;
  pieces_.push_back({small_.get() + run_start_, small_used_ - run_start_});
  run_start_ = small_used_;
}

Status StreamWriter::flush() {
  if (!status_) return status_;
  close_small_run();
  if (!pieces_.empty()) status_ = channel_.write_all(pieces_);
  pieces_.clear();
  small_used_ = run_start_ = 0;
  return status_;
}

Status StreamWriter::status() const {
  return status_;
}

}  // namespace handover
