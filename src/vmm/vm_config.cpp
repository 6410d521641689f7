#include "handover/vmm/vm_config.h"

#include <set>
#include <string_view>

namespace handover::vmm {

Status VmConfig::check() const {
  if (memory == 0 || memory % kPageSize != 0)
    return fail(Errc::invalid_argument, "{} bytes of memory: give a multiple of {}, such as 256M", memory,
                kPageSize);
  if (devices.size() > kMaxDevices)
    return fail(Errc::limit, "{} devices: the PCI bus has room for {}", devices.size(), kMaxDevices);
  std::set<std::string_view> ids;
  std::set<std::uint32_t> slots;
  for (const auto& device : devices) {
    HANDOVER_TRY(check_device(device));
    if (!ids.insert(device.id).second)
      return fail(Errc::invalid_argument, "two devices have the id `{}`; give each an id of its own",
                  device.id);
    if (device.slot != 0 && !slots.insert(device.slot).second)
      return fail(Errc::invalid_argument, "two devices want PCI slot {}; give each a slot of its own",
                  device.slot);
  }
  return {};
}

}  // namespace handover::vmm
