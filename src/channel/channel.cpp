#include "handover/channel/channel.h"

namespace handover {

Status Channel::read_exact(std::span<std::byte> buffer) {
  const std::size_t wanted = buffer.size();
  while (!buffer.empty()) {
    HANDOVER_ASSIGN(auto count, read_some(buffer));
    if (count == 0)
      return fail(Errc::closed, "{} ended after {} of {} bytes", name(), wanted - buffer.size(), wanted);
    buffer = buffer.subspan(count);
  }
  return {};
}

}  // namespace handover
