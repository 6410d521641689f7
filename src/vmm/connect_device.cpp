#include "handover/vfio_kernel/open_device.h"
#include "handover/vfio_user/client.h"
#include "handover/vmm/vm_config.h"

namespace handover::vmm {

Result<std::unique_ptr<vfio::Device>> connect_device(const DeviceOptions& options, GuestMemory& memory,
                                                     const CancelToken& cancel) {
  if (options.kind == DeviceOptions::Kind::vfio_pci)
    return vfio_kernel::open_device({.id = options.id, .where = options.host});
  return vfio_user::connect({.id = options.id, .socket_path = options.socket}, memory, cancel);
}

}  // namespace handover::vmm
