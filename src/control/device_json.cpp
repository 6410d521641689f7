#include "control/device_json.h"

#include <charconv>

#include "control/json_members.h"

namespace handover::control {

using nlohmann::json;

namespace {

constexpr std::string_view kUserDriver = "vfio-user-pci";
constexpr std::string_view kKernelDriver = "vfio-pci";

// As in QEMU, `host` is a PCI address and `sysfsdev` a folder.
Result<std::string> host_of(const json& arguments) {
  std::optional<std::string> where;
  for (const auto* name : {"host", "sysfsdev"}) {
    if (!arguments.contains(name)) continue;
    if (where) return fail(Errc::invalid_argument, "'host' and 'sysfsdev' exclude each other");
    HANDOVER_ASSIGN(where, required_text(arguments, name));
  }
  if (!where)
    return fail(
        Errc::invalid_argument,
        "'host' is missing: a PCI address such as \"0000:41:00.3\", or 'sysfsdev', a folder in sysfs");
  return *where;
}

Result<std::string> socket_path_of(const json& arguments) {
  const auto at = arguments.find("socket");
  if (at == arguments.end())
    return fail(Errc::invalid_argument, "'socket' is missing: where the device's server listens");
  if (!at->is_object()) return required_text(arguments, "socket");
  HANDOVER_TRY(only_members(*at, "'socket'", {"type", "path"}));
  HANDOVER_ASSIGN(const auto type, required_text(*at, "type"));
  if (type != "unix")
    return fail(Errc::unsupported, "device servers are reached by sockets of type 'unix', not '{:.80}'",
                type);
  return required_text(*at, "path");
}

// "3", "0x3", "3.0" or 3; digits are hexadecimal in a text, as in QEMU.
Result<std::uint32_t> slot_of(const json& arguments) {
  const auto at = arguments.find("addr");
  if (at == arguments.end()) return 0;
  std::uint64_t slot = 0;
  bool sound = false;
  if (at->is_string()) {
    std::string_view text = at->get_ref<const std::string&>();
    if (text.starts_with("0x")) text.remove_prefix(2);
    if (text.ends_with(".0")) text.remove_suffix(2);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), slot, 16);
    sound = error == std::errc{} && end == text.data() + text.size();
  } else if (at->is_number_integer()) {
    // A negative one wraps to one that is too large.
    slot = at->get<std::uint64_t>();
    sound = true;
  }
  if (!sound || slot < 1 || slot > vmm::kMaxDevices)
    return fail(Errc::invalid_argument, "'addr' must be a PCI slot from 0x1 to {:#x}, such as \"0x3\"",
                vmm::kMaxDevices);
  return static_cast<std::uint32_t>(slot);
}

Result<vfio::DirtyTrackingOptions> tracking_of(const json& arguments) {
  vfio::DirtyTrackingOptions options;
  if (const auto at = arguments.find("dirty-page-tracking"); at != arguments.end()) {
    const auto name = at->is_string() ? at->get<std::string>() : std::string();
    options.tracker = vfio::tracker_kind_from(name);
    if (!options.tracker && name != "auto")
      return fail(Errc::invalid_argument,
                  "'dirty-page-tracking' is one of 'auto', 'device', 'iommufd', 'type1' and 'all'");
  }
  if (const auto at = arguments.find("pre-copy-dirty-page-tracking"); at != arguments.end()) {
    if (*at != "on" && *at != "off" && !at->is_boolean())
      return fail(Errc::invalid_argument, "'pre-copy-dirty-page-tracking' is 'on' or 'off'");
    options.pre_copy = *at == "on" || *at == true;
  }
  return options;
}

template <class T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

}  // namespace

Result<vmm::DeviceOptions> device_arguments(const json& arguments) {
  HANDOVER_TRY(only_members(arguments, "device_add",
                            {"driver", "id", "socket", "host", "sysfsdev", "addr", "dirty-page-tracking",
                             "pre-copy-dirty-page-tracking"}));
  vmm::DeviceOptions device;
  HANDOVER_ASSIGN(const auto driver, required_text(arguments, "driver"));
  if (driver == kUserDriver) {
    HANDOVER_ASSIGN(device.socket, socket_path_of(arguments));
  } else if (driver == kKernelDriver) {
    device.kind = vmm::DeviceOptions::Kind::vfio_pci;
    HANDOVER_ASSIGN(device.host, host_of(arguments));
  } else {
    return fail(Errc::unsupported, "no driver '{:.80}'; devices are of driver '{}' or '{}'", driver,
                kUserDriver, kKernelDriver);
  }
  for (const auto* name : {"socket", "host", "sysfsdev"})
    if (arguments.contains(name) && (driver == kUserDriver) != (std::string_view(name) == "socket"))
      return fail(Errc::invalid_argument, "driver '{}' has no property '{}'", driver, name);
  HANDOVER_ASSIGN(device.id, required_text(arguments, "id"));
  HANDOVER_ASSIGN(device.slot, slot_of(arguments));
  HANDOVER_ASSIGN(device.dirty_tracking, tracking_of(arguments));
  HANDOVER_TRY(vmm::check_device(device));
  return device;
}

json device_json(const vmm::DeviceStatus& device, std::optional<std::uint64_t> pending) {
  return {{"id", device.id},
          {"path", device.path},
          {"slot", device.slot},
          {"vendor", device.vendor},
          {"device", device.device},
          {"migration",
           {{"supported", device.migratable},
            {"protocol", device.protocol},
            {"pre-copy", device.pre_copy},
            {"p2p", device.p2p},
            {"stop-copy-size", or_null(device.stop_copy_size)},
            {"pending-bytes", or_null(pending)},
            {"state", device.state}}},
          {"dirty-tracking",
           {{"tracker", vfio::to_string(device.dirty_tracking.kind)},
            {"pre-copy", device.dirty_tracking.pre_copy},
            {"reason", device.dirty_tracking.reason},
            {"dma-log", device.dma_log}}},
          {"dma-mappings", or_null(device.dma_mappings)},
          {"dma-faults", device.dma_faults},
          {"blocker", device.blocker.empty() ? json(nullptr) : json(device.blocker)},
          {"lost", device.lost}};
}

}  // namespace handover::control
