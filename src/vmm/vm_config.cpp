#include "handover/vmm/vm_config.h"

#include <algorithm>
#include <charconv>
#include <set>

namespace handover::vmm {
namespace {

constexpr std::string_view kSpelling =
    "vfio-user,socket=/path/to/socket,id=NAME[,slot=N][,dirty-page-tracking=auto|device|iommufd|type1|all]"
    "[,pre-copy-dirty-page-tracking=on|off]";

bool sound_id(std::string_view id) {
  return !id.empty() && id.size() <= kMaxDeviceId && std::ranges::all_of(id, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

Status parse_slot(std::string_view text, std::string_view value, std::uint32_t& slot) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), slot);
  if (error == std::errc{} && end == value.data() + value.size() && slot >= 1 && slot <= kMaxDevices)
    return {};
  return fail(Errc::invalid_argument, "device `{}`: a slot is a number from 1 to {}; write {}", text,
              kMaxDevices, kSpelling);
}

Status parse_tracking(std::string_view text, std::string_view key, std::string_view value,
                      vfio::DirtyTrackingOptions& options) {
  if (key == "dirty-page-tracking") {
    options.tracker = vfio::tracker_kind_from(value);
    if (options.tracker || value == "auto") return {};
  } else {
    options.pre_copy = value == "on";
    if (value == "on" || value == "off") return {};
  }
  return fail(Errc::invalid_argument, "device `{}`: {} cannot be `{}`; write {}", text, key, value,
              kSpelling);
}

}  // namespace

Result<DeviceOptions> parse_device_option(std::string_view text) {
  DeviceOptions options;
  bool first = true;
  std::set<std::string_view> seen;
  for (std::string_view rest = text; first || !rest.empty();) {
    const auto comma = rest.find(',');
    const auto part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    if (std::exchange(first, false)) {
      if (part != "vfio-user")
        return fail(Errc::invalid_argument, "device `{}`: unknown kind `{}`; write {}", text, part,
                    kSpelling);
      continue;
    }
    const auto equals = part.find('=');
    const auto key = part.substr(0, equals);
    const auto value = equals == std::string_view::npos ? std::string_view{} : part.substr(equals + 1);
    const bool tracking = key == "dirty-page-tracking" || key == "pre-copy-dirty-page-tracking";
    if (value.empty() || (key != "socket" && key != "id" && key != "slot" && !tracking))
      return fail(Errc::invalid_argument, "device `{}`: `{}` is not understood; write {}", text, part,
                  kSpelling);
    if (!seen.insert(key).second)
      return fail(Errc::invalid_argument, "device `{}`: {} is given twice; write {}", text, key, kSpelling);
    if (key == "slot")
      HANDOVER_TRY(parse_slot(text, value, options.slot));
    else if (tracking)
      HANDOVER_TRY(parse_tracking(text, key, value, options.dirty_tracking));
    else
      (key == "socket" ? options.socket : options.id) = value;
  }
  for (const auto& [key, value] : {std::pair{"socket", &options.socket}, std::pair{"id", &options.id}})
    if (value->empty())
      return fail(Errc::invalid_argument, "device `{}`: {} is missing; write {}", text, key, kSpelling);
  if (!sound_id(options.id))
    return fail(Errc::invalid_argument,
                "device `{}`: an id has 1 to {} letters, digits, `-`, `_` or `.`; write {}", text,
                kMaxDeviceId, kSpelling);
  return options;
}

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

Status check_device(const DeviceOptions& device) {
  if (!sound_id(device.id) || device.socket.empty())
    return fail(Errc::invalid_argument,
                "device `{}`: it needs a socket and an id of 1 to {} letters, digits, `-`, `_` or `.`",
                device.id, kMaxDeviceId);
  if (device.slot > kMaxDevices)
    return fail(Errc::invalid_argument, "device `{}`: there is no PCI slot {}; slots are 1 to {}", device.id,
                device.slot, kMaxDevices);
  return {};
}

}  // namespace handover::vmm
