#include "cli/device_open.h"

#include "cli/device_target.h"

namespace handover::cli {

Result<OpenDevice> open_as_found(const std::string& text) {
  HANDOVER_ASSIGN(const auto target, DeviceTarget::parse(text));
  OpenDevice open;
  HANDOVER_ASSIGN(open.memory, GuestMemory::create(kPageSize));
  HANDOVER_ASSIGN(open.device, open_target(target, *open.memory, {}, {.keep_state = true}));
  return open;
}

}  // namespace handover::cli
