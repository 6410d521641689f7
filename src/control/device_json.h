#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "handover/vmm/vm.h"

/// Devices of a machine as JSON; no I/O here.
namespace handover::control {

/// The arguments of device_add: `driver` (vfio-user-pci), `id`, `socket` (a path, or a SocketAddress of type
/// unix), and `addr` (the PCI slot, as a number or in QEMU's hexadecimal spelling; without it the lowest
/// free).
Result<vmm::DeviceOptions> device_arguments(const nlohmann::json& arguments);

/// An element of x-handover-query-devices; `pending` is what a migration under way knows to be left of it.
nlohmann::json device_json(const vmm::DeviceStatus& device, std::optional<std::uint64_t> pending);

}  // namespace handover::control
