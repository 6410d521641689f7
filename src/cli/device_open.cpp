#include "cli/device_open.h"

#include "cli/device_target.h"
#include "handover/vfio_user/client.h"

namespace handover::cli {

Result<OpenDevice> open_as_found(const std::string& text) {
  HANDOVER_ASSIGN(const auto target, DeviceTarget::parse(text));
  OpenDevice open;
  HANDOVER_ASSIGN(open.memory, GuestMemory::create(kPageSize));
  switch (target.kind) {
    case DeviceTarget::Kind::vfio_user: {
      vfio_user::ClientOptions options;
      options.id = target.to_string();
      options.socket_path = target.path;
      options.keep_state = true;
      HANDOVER_ASSIGN(open.device, vfio_user::connect(std::move(options), *open.memory, {}));
      return open;
    }
  }
  return fail(Errc::unsupported, "no way to open {}", target.to_string());
}

}  // namespace handover::cli
