#include "devices/accelerator/state_encoder.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "handover/base/byte_writer.h"

namespace handover::accelerator {

using namespace stream;

namespace {

constexpr std::uint64_t kPagesPerRead = 64 * MiB / kPageSize;

bool is_zero(std::span<const std::byte> page) {
  return page[0] == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

}  // namespace

StateEncoder::StateEncoder(DeviceMemory& memory, std::span<const std::byte> window)
    : memory_(memory), window_(window), sent_(memory.pages()) {
  memory_.mark_all_written_dirty();
  LeWriter preamble;
  preamble.u64(kMagic);
  preamble.u32(kVersion);
  preamble.u32(0);
  staged_ = preamble.take();
  append_configuration();
  append_written_map();
  initial_left_ += staged_.size();
}

void StateEncoder::append_configuration() {
  LeWriter out;
  out.u64(memory_.size());
  out.u64(window_.size());
  out.u32(kMsixVectors);
  out.u16(kVendorId);
  out.u16(kDeviceId);
  append_frame(FrameType::configuration, out.view());
}

void StateEncoder::append_written_map() {
  std::vector<std::byte> map(written_map_size(memory_.chunks()));
  for (std::uint64_t chunk = 0; chunk < memory_.chunks(); ++chunk)
    if (memory_.written().test(chunk)) map[chunk / 8] |= std::byte{1} << static_cast<int>(chunk % 8);
  append_frame(FrameType::written_map, map);
}

void StateEncoder::append_frame(FrameType type, std::span<const std::byte> payload) {
  const std::size_t at = staged_.size();
  staged_.resize(at + frame_size(payload.size()));
  const auto frame = std::span(staged_).subspan(at);
  std::ranges::copy(payload, frame.begin() + kFrameHeaderSize);
  seal(frame, type);
}

void StateEncoder::seal(std::span<std::byte> frame, FrameType type) {
  store_le(frame.data(), static_cast<std::uint32_t>(type));
  store_le(frame.data() + 4, static_cast<std::uint32_t>(frame.size() - frame_size(0)));
  const std::size_t covered = frame.size() - kChecksumSize;
  store_le<std::uint64_t>(frame.data() + covered, XXH3_64bits_withSeed(frame.data(), covered, frames_));
  ++frames_;
}

void StateEncoder::finish(const DeviceRecord& record) {
  record_ = record.encode();
  finished_ = true;
}

bool StateEncoder::serve_staged(std::span<std::byte> to, std::size_t& filled) {
  if (staged_at_ == staged_.size()) return false;
  const std::size_t part = std::min(to.size() - filled, staged_.size() - staged_at_);
  std::memcpy(to.data() + filled, staged_.data() + staged_at_, part);
  filled += part;
  staged_at_ += part;
  initial_left_ -= std::min(initial_left_, part);
  if (staged_at_ == staged_.size()) {
    staged_.clear();
    staged_at_ = 0;
  }
  return true;
}

std::size_t StateEncoder::read(std::span<std::byte> to) {
  budget_ = finished_ ? std::numeric_limits<std::uint64_t>::max() : kPagesPerRead;
  std::size_t filled = 0;
  while (filled < to.size()) {
    if (serve_staged(to, filled)) continue;
    const auto room = to.subspan(filled);
    if (room.size() >= pages_frame_size(1)) {
      if (const std::size_t written = next_pages(room); written != 0) {
        filled += written;
        continue;
      }
    } else {
      staged_.resize(pages_frame_size(1));
      staged_.resize(next_pages(staged_));
      if (!staged_.empty()) continue;
    }
    if (!finished_ || ended_) break;
    append_frame(FrameType::window, window_);
    append_frame(FrameType::device, record_);
    LeWriter end;
    end.u64(frames_);
    append_frame(FrameType::end, end.view());
    ended_ = true;
  }
  return filled;
}

std::size_t StateEncoder::next_pages(std::span<std::byte> out) {
  const std::uint64_t most = std::min(kMaxPages, (out.size() - pages_frame_size(0)) / kPageSize);
  bool wrapped = cursor_ == 0;
  while (budget_ > 0) {
    const auto run = memory_.dirty().take_run(cursor_, std::min(most, budget_));
    if (!run) {
      if (wrapped) return 0;
      wrapped = true;
      cursor_ = 0;
      continue;
    }
    const std::uint64_t end = run->first + run->count;
    const PageRun free = memory_.claims().begin_read(*run);
    // Pages that the engine is at stay dirty and are looked at again when the cursor comes round.
    memory_.dirty().mark_range(run->first, free.first - run->first);
    memory_.dirty().mark_range(free.first + free.count, end - free.first - free.count);
    cursor_ = free.count != 0 ? free.first : end;
    const std::size_t written = free.count != 0 ? pages_from(free, out) : 0;
    memory_.claims().end_read();
    if (written != 0) return written;
  }
  return 0;
}

// Takes from the front of the run what makes one frame, or drops zero pages that need none; the rest of the
// run becomes dirty again.
std::size_t StateEncoder::pages_from(PageRun run, std::span<std::byte> out) {
  enum class Kind { data, zero_known, zero_sent };
  const auto kind_of = [&](std::uint64_t page) {
    if (!is_zero(memory_.view(page * kPageSize, kPageSize))) return Kind::data;
    return sent_[page] ? Kind::zero_sent : Kind::zero_known;
  };
  const Kind kind = kind_of(run.first);
  PageRun part{run.first, 1};
  while (part.count < run.count && kind_of(part.first + part.count) == kind)
    ++part.count;
  memory_.dirty().mark_range(part.first + part.count, run.count - part.count);
  cursor_ = part.first + part.count;
  budget_ -= std::min(budget_, part.count);
  switch (kind) {
    case Kind::data:
      return put_pages(part, out);
    case Kind::zero_sent:
      return put_zero_pages(part, out);
    case Kind::zero_known:
      break;
  }
  return 0;
}

std::size_t StateEncoder::put_pages(PageRun run, std::span<std::byte> out) {
  const auto frame = out.first(pages_frame_size(run.count));
  std::byte* payload = frame.data() + kFrameHeaderSize;
  store_le<std::uint64_t>(payload, run.first);
  store_le<std::uint32_t>(payload + 8, static_cast<std::uint32_t>(run.count));
  store_le<std::uint32_t>(payload + 12, 0);
  std::memcpy(payload + kPagesHeaderSize, memory_.view(run.first * kPageSize, run.count * kPageSize).data(),
              run.count * kPageSize);
  seal(frame, FrameType::pages);
  std::fill_n(sent_.begin() + static_cast<std::ptrdiff_t>(run.first), run.count, true);
  return frame.size();
}

std::size_t StateEncoder::put_zero_pages(PageRun run, std::span<std::byte> out) {
  const auto frame = out.first(frame_size(kZeroPagesSize));
  store_le<std::uint64_t>(frame.data() + kFrameHeaderSize, run.first);
  store_le<std::uint64_t>(frame.data() + kFrameHeaderSize + 8, run.count);
  seal(frame, FrameType::zero_pages);
  std::fill_n(sent_.begin() + static_cast<std::ptrdiff_t>(run.first), run.count, false);
  return frame.size();
}

vfio::PrecopyInfo StateEncoder::precopy_info() const {
  const std::uint64_t staged = staged_.size() - staged_at_;
  const std::uint64_t pages = memory_.dirty().count();
  const std::uint64_t frames = (pages + kMaxPages - 1) / kMaxPages;
  return {initial_left_, staged - initial_left_ + pages * kPageSize + frames * pages_frame_size(0)};
}

std::uint64_t StateEncoder::stop_copy_size() const {
  const auto info = precopy_info();
  const std::uint64_t rest = info.initial_bytes + info.dirty_bytes;
  if (ended_) return rest;
  return rest + frame_size(window_.size()) + frame_size(DeviceRecord::encoded_size()) + frame_size(kEndSize);
}

std::uint64_t StateEncoder::stop_copy_size(const DeviceMemory& memory) {
  const std::uint64_t pages = std::min(memory.written().count() * kPagesPerChunk, memory.pages());
  const std::uint64_t frames = (pages + kMaxPages - 1) / kMaxPages;
  return kPreambleSize + frame_size(kConfigurationSize) + frame_size(written_map_size(memory.chunks())) +
         pages * kPageSize + frames * pages_frame_size(0) + frame_size(kWindowSize) +
         frame_size(DeviceRecord::encoded_size()) + frame_size(kEndSize);
}

}  // namespace handover::accelerator
