#include "stream/inspect/xbzrle.h"

#include <cstring>

#include "handover/base/byte_reader.h"
#include "handover/base/units.h"

namespace handover::stream {
namespace {

/// ULEB128 of at most two bytes.
Result<std::size_t> run_length(BeReader& in) {
  HANDOVER_ASSIGN(std::size_t low, in.u8());
  if (low < 0x80) return low;
  HANDOVER_ASSIGN(std::size_t high, in.u8());
  if (high >= 0x80) return fail(Errc::protocol, "a run length of more than two bytes");
  return (low & 0x7f) | high << 7;
}

}  // namespace

Status apply_xbzrle(std::span<const std::byte> delta, std::span<std::byte> page) {
  BeReader in(delta);
  std::size_t at = 0;
  for (bool first = true; in.remaining() > 0; first = false) {
    HANDOVER_ASSIGN(auto same, run_length(in));
    if (same == 0 && !first) return fail(Errc::protocol, "an empty run of unchanged bytes");
    if (!range_fits(at, same, page.size())) return fail(Errc::protocol, "a run past the end of the page");
    at += same;
    HANDOVER_ASSIGN(auto changed, run_length(in));
    if (changed == 0) return fail(Errc::protocol, "an empty run of changed bytes");
    if (!range_fits(at, changed, page.size())) return fail(Errc::protocol, "a run past the end of the page");
    HANDOVER_ASSIGN(auto bytes, in.bytes(changed));
    std::memcpy(page.data() + at, bytes.data(), changed);
    at += changed;
  }
  return {};
}

}  // namespace handover::stream
