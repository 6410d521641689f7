// The accelerator's state stream.  An even first byte: the rest as it is.  An odd one: the rest is a list of
// frames (type, u16 length, payload) that are padded to their size and get right checksums, so that what is
// behind the checksums is reached as well.

#include <xxhash.h>

#include "devices/accelerator/state_decoder.h"
#include "handover/base/byte_reader.h"
#include "handover/base/byte_writer.h"

namespace {

using namespace handover;
using namespace handover::accelerator;
using stream::FrameType;

std::size_t padded_size(FrameType type, std::span<const std::byte> payload) {
  switch (type) {
    case FrameType::configuration:
      return stream::kConfigurationSize;
    case FrameType::written_map:
      return stream::written_map_size(kMinMemory / kChunkSize);
    case FrameType::pages: {
      if (payload.size() < stream::kPagesHeaderSize) return stream::kPagesHeaderSize;
      const auto count = load_le<std::uint32_t>(payload.data() + 8) % 8;
      return stream::kPagesHeaderSize + count * kPageSize;
    }
    case FrameType::zero_pages:
      return stream::kZeroPagesSize;
    case FrameType::window:
      return kWindowSize;
    case FrameType::device:
      return DeviceRecord::encoded_size();
    case FrameType::end:
      return stream::kEndSize;
  }
  return payload.size();
}

std::vector<std::byte> sealed(std::span<const std::byte> input) {
  LeWriter out;
  out.u64(stream::kMagic);
  out.u32(stream::kVersion);
  out.u32(0);
  LeReader in(input);
  for (std::uint64_t number = 0; number < 64 && in.remaining() >= 3; ++number) {
    const std::uint32_t type = *in.u8() % 9;
    const auto payload = *in.bytes(std::min<std::size_t>(*in.u16(), in.remaining()));
    const std::size_t size = padded_size(static_cast<FrameType>(type), payload);
    const std::size_t at = out.size();
    out.u32(type);
    out.u32(static_cast<std::uint32_t>(size));
    out.bytes(payload.first(std::min(size, payload.size())));
    out.zeros(size - std::min(size, payload.size()));
    out.u64(XXH3_64bits_withSeed(out.view().data() + at, out.size() - at, number));
  }
  return out.take();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto memory = DeviceMemory::create(kMinMemory).value();
  const auto input = std::as_bytes(std::span(data, size));
  if (input.size() < 2) return 0;
  const bool raw = (data[0] & 1) == 0;
  const auto rest = input.subspan(2);
  const std::vector<std::byte> bytes = raw ? std::vector(rest.begin(), rest.end()) : sealed(rest);

  StateDecoder decoder(*memory);
  // Pieces of a size that the input chooses.
  const std::size_t piece = 1 + std::size_t{data[1]} * data[1];
  for (std::size_t at = 0; at < bytes.size(); at += piece)
    if (!decoder.write(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)))) break;
  (void)decoder.finish();
  return 0;
}
