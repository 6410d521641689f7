#include "unit/vfio_user/codec_round_trip.h"

// Any bytes as one vfio-user message: the header's command and direction choose the decoder.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace handover;
  NativeReader in(std::as_bytes(std::span(data, size)));
  const auto header = vfio_user::protocol::decode<vfio_user::protocol::Header>(in);
  if (!header) return 0;
  const auto payload = in.rest();
  const auto again = vfio_user::decode_and_encode(*header, payload);
  // What was decoded once decodes again, to the same.
  if (again) {
    const auto twice = vfio_user::decode_and_encode(*header, *again);
    if (!twice || *twice != *again) __builtin_trap();
  }
  return 0;
}
