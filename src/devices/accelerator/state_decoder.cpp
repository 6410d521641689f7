#include "devices/accelerator/state_decoder.h"

#include <algorithm>
#include <cstring>

#include "devices/accelerator/size_text.h"
#include "handover/base/byte_reader.h"

namespace handover::accelerator {

using namespace stream;

StateDecoder::StateDecoder(DeviceMemory& memory)
    : memory_(memory), hash_(XXH3_createState()), wanted_(kPreambleSize) {
}

Status StateDecoder::write(std::span<const std::byte> from) {
  if (error_) return std::unexpected(*error_);
  while (!from.empty())
    if (auto taken = take(from); !taken) {
      error_ = std::move(taken).error().with_context(fmt::format("device state, byte {}", position_));
      return std::unexpected(*error_);
    }
  return {};
}

Result<StateDecoder::Loaded> StateDecoder::finish() {
  if (error_) return std::unexpected(*error_);
  if (!ended_) {
    error_ = Error(Errc::protocol,
                   fmt::format("device state ends after {} bytes, before its end mark", position_));
    return std::unexpected(*error_);
  }
  error_ = Error(Errc::state, "the device state has been taken already");
  return Loaded{*record_, std::move(window_)};
}

Status StateDecoder::take(std::span<const std::byte>& from) {
  if (ended_) return fail(Errc::protocol, "{} bytes follow the end mark", from.size());
  std::size_t part = 0;
  if (stage_ == Stage::page_data) {
    part = std::min(from.size(), page_data_.size());
    std::memcpy(page_data_.data(), from.data(), part);
    XXH3_64bits_update(hash_.get(), from.data(), part);
    page_data_ = page_data_.subspan(part);
  } else {
    part = std::min(from.size(), wanted_ - buffer_.size());
    buffer_.insert(buffer_.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(part));
  }
  position_ += part;
  from = from.subspan(part);
  if (stage_ == Stage::page_data)
    return page_data_.empty() ? begin(Stage::checksum, kChecksumSize) : Status{};
  return buffer_.size() == wanted_ ? collected() : Status{};
}

Status StateDecoder::begin(Stage stage, std::size_t size) {
  stage_ = stage;
  wanted_ = size;
  if (stage != Stage::checksum) buffer_.clear();
  // The payload is judged once its checksum, which is collected behind it, is known to be right.
  if (stage == Stage::checksum) wanted_ += buffer_.size();
  return {};
}

Status StateDecoder::collected() {
  switch (stage_) {
    case Stage::preamble:
      return check_preamble();
    case Stage::header:
      return check_header();
    case Stage::payload:
      XXH3_64bits_update(hash_.get(), buffer_.data(), buffer_.size());
      return type_ == FrameType::pages ? check_pages_header() : begin(Stage::checksum, kChecksumSize);
    case Stage::checksum:
      return check_frame();
    case Stage::page_data:
      break;
  }
  return {};
}

Status StateDecoder::check_preamble() {
  LeReader in(buffer_);
  HANDOVER_ASSIGN(const auto magic, in.u64());
  HANDOVER_ASSIGN(const auto version, in.u32());
  HANDOVER_ASSIGN(const auto reserved, in.u32());
  if (magic != kMagic) return fail(Errc::mismatch, "this is no state of an accelerator");
  if (version != kVersion || reserved != 0)
    return fail(Errc::unsupported, "state of version {}.{}, this device reads version {}", version, reserved,
                kVersion);
  return begin(Stage::header, kFrameHeaderSize);
}

std::size_t StateDecoder::payload_size(FrameType type) const {
  switch (type) {
    case FrameType::configuration:
      return kConfigurationSize;
    case FrameType::written_map:
      return written_map_size(memory_.chunks());
    case FrameType::pages:
      return kPagesHeaderSize;
    case FrameType::zero_pages:
      return kZeroPagesSize;
    case FrameType::window:
      return kWindowSize;
    case FrameType::device:
      return DeviceRecord::encoded_size();
    case FrameType::end:
      return kEndSize;
  }
  return 0;
}

Status StateDecoder::check_header() {
  XXH3_64bits_reset_withSeed(hash_.get(), frames_);
  XXH3_64bits_update(hash_.get(), buffer_.data(), buffer_.size());
  LeReader in(buffer_);
  HANDOVER_ASSIGN(const auto number, in.u32());
  HANDOVER_ASSIGN(length_, in.u32());
  type_ = static_cast<FrameType>(number);
  const std::size_t size = payload_size(type_);
  if (size == 0) return fail(Errc::protocol, "frame {} has the unknown type {}", frames_, number);
  if (!configured_ && type_ != FrameType::configuration)
    return fail(Errc::protocol, "a frame of type {} comes before the configuration", number);
  if (configured_ && !mapped_ && type_ != FrameType::written_map)
    return fail(Errc::protocol, "a frame of type {} comes before the map of written memory", number);
  if (type_ == FrameType::pages ? length_ < size + kPageSize : length_ != size)
    return fail(Errc::protocol, "frame {} of type {} has {} bytes", frames_, number, length_);
  return begin(Stage::payload, size);
}

Status StateDecoder::check_pages_header() {
  LeReader in(buffer_);
  HANDOVER_ASSIGN(const auto first, in.u64());
  HANDOVER_ASSIGN(const auto count, in.u32());
  HANDOVER_ASSIGN(const auto reserved, in.u32());
  if (count == 0 || count > kMaxPages || reserved != 0 || length_ != kPagesHeaderSize + count * kPageSize)
    return fail(Errc::protocol, "frame {} of {} bytes says that it has {} pages", frames_, length_, count);
  if (!range_fits(first, count, memory_.pages()))
    return fail(Errc::protocol, "pages {} to {} of a memory of {} pages", first, first + (count - 1),
                memory_.pages());
  page_data_ = memory_.load({first, count});
  buffer_.clear();
  stage_ = Stage::page_data;
  return {};
}

Status StateDecoder::check_frame() {
  const auto sum = load_le<std::uint64_t>(buffer_.data() + buffer_.size() - kChecksumSize);
  if (sum != XXH3_64bits_digest(hash_.get()))
    return fail(Errc::protocol, "the checksum of frame {} is wrong", frames_);
  buffer_.resize(buffer_.size() - kChecksumSize);
  HANDOVER_TRY(apply());
  ++frames_;
  return begin(Stage::header, kFrameHeaderSize);
}

Status StateDecoder::apply() {
  switch (type_) {
    case FrameType::configuration:
      return apply_configuration();
    case FrameType::written_map:
      return apply_written_map();
    case FrameType::pages:
      return {};
    case FrameType::zero_pages:
      return apply_zero_pages();
    case FrameType::window:
      if (!window_.empty()) return fail(Errc::protocol, "the window comes twice");
      window_ = buffer_;
      return {};
    case FrameType::device: {
      if (record_) return fail(Errc::protocol, "the device record comes twice");
      HANDOVER_ASSIGN(record_, DeviceRecord::decode(buffer_, memory_.size()));
      return {};
    }
    case FrameType::end:
      return apply_end();
  }
  return {};
}

Status StateDecoder::apply_configuration() {
  if (configured_) return fail(Errc::protocol, "the configuration comes twice");
  LeReader in(buffer_);
  HANDOVER_ASSIGN(const auto memory, in.u64());
  HANDOVER_ASSIGN(const auto window, in.u64());
  HANDOVER_ASSIGN(const auto vectors, in.u32());
  HANDOVER_ASSIGN(const auto vendor, in.u16());
  HANDOVER_ASSIGN(const auto device, in.u16());
  if (vendor != kVendorId || device != kDeviceId)
    return fail(Errc::mismatch, "device is {:04x}:{:04x} here and {:04x}:{:04x} in the stream", kVendorId,
                kDeviceId, vendor, device);
  if (memory != memory_.size())
    return fail(Errc::mismatch, "device memory is {} here and {} in the stream", size_text(memory_.size()),
                size_text(memory));
  if (window != kWindowSize)
    return fail(Errc::mismatch, "the window is {} here and {} in the stream", size_text(kWindowSize),
                size_text(window));
  if (vectors != kMsixVectors)
    return fail(Errc::mismatch, "{} MSI-X vectors here and {} in the stream", kMsixVectors, vectors);
  configured_ = true;
  return {};
}

Status StateDecoder::apply_written_map() {
  if (mapped_) return fail(Errc::protocol, "the map of written memory comes twice");
  // The chunks count as written here too, so that this device, migrated on, sends at least the same.  One bit
  // stands for one chunk on both sides, whatever the size.
  HANDOVER_TRY(memory_.written().import_le(buffer_, memory_.chunks(), 0, kPageSize));
  if (const std::uint64_t tail = memory_.chunks() % 8;
      tail != 0 && (std::to_integer<unsigned>(buffer_.back()) >> tail) != 0)
    return fail(Errc::protocol, "the map of written memory goes beyond the memory");
  for (std::uint64_t chunk = 0; chunk < memory_.chunks(); ++chunk) {
    const auto first = chunk;
    while (chunk < memory_.chunks() && memory_.written().test(chunk))
      ++chunk;
    if (chunk > first) memory_.expect(first, chunk - first);
  }
  mapped_ = true;
  return {};
}

Status StateDecoder::apply_zero_pages() {
  LeReader in(buffer_);
  HANDOVER_ASSIGN(const auto first, in.u64());
  HANDOVER_ASSIGN(const auto count, in.u64());
  if (count == 0 || count > kMaxPages || !range_fits(first, count, memory_.pages()))
    return fail(Errc::protocol, "{} zero pages from page {} of a memory of {} pages", count, first,
                memory_.pages());
  memory_.load_zero({first, count});
  return {};
}

Status StateDecoder::apply_end() {
  const auto frames = load_le<std::uint64_t>(buffer_.data());
  if (frames != frames_)
    return fail(Errc::protocol, "{} frames came, the end mark counts {}", frames_, frames);
  if (!record_ || window_.empty()) return fail(Errc::protocol, "the end mark comes before the device record");
  ended_ = true;
  return {};
}

}  // namespace handover::accelerator
