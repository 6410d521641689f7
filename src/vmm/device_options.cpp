#include "handover/vmm/device_options.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

namespace handover::vmm {
namespace {

constexpr std::string_view kSpelling =
    "vfio-user,socket=/path/to/socket,id=NAME or vfio-pci,host=0000:41:00.3,id=NAME (or "
    "sysfsdev=/sys/bus/mdev/devices/UUID, or fd=N[,iommufd=M]), and where wanted "
    "[,slot=N][,dirty-page-tracking=auto|device|iommufd|type1|all][,pre-copy-dirty-page-tracking=on|off]";

bool sound_id(std::string_view id) {
  return !id.empty() && id.size() <= kMaxDeviceId && std::ranges::all_of(id, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

bool parse_slot(std::string_view value, std::uint32_t& slot) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), slot);
  return error == std::errc{} && end == value.data() + value.size() && slot >= 1 && slot <= kMaxDevices;
}

/// One `key=value` at a time.
class DeviceParser {
 public:
  explicit DeviceParser(std::string_view text) : text_(text) {}

  Result<DeviceOptions> parse() {
    bool first = true;
    for (std::string_view rest = text_; first || !rest.empty(); first = false) {
      const auto comma = rest.find(',');
      const auto part = rest.substr(0, comma);
      rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
      HANDOVER_TRY(first ? take_kind(part) : take(part));
    }
    HANDOVER_TRY(check_complete());
    if (!iommufd_.empty()) options_.host += fmt::format(",iommufd={}", iommufd_);
    return options_;
  }

 private:
  bool kernel() const { return options_.kind == DeviceOptions::Kind::vfio_pci; }

  Status take_kind(std::string_view part) {
    constexpr std::string_view kTarget = "vfio:";
    if (part == "vfio-user") return {};
    options_.kind = DeviceOptions::Kind::vfio_pci;
    if (part == "vfio-pci") return {};
    if (part.starts_with(kTarget)) {
      options_.host = part.substr(kTarget.size());
      return {};
    }
    return fail(Errc::invalid_argument, "device `{}`: unknown kind `{}`; write {}", text_, part, kSpelling);
  }

  Status take(std::string_view part) {
    const auto equals = part.find('=');
    const auto key = part.substr(0, equals);
    const auto value = equals == std::string_view::npos ? std::string_view{} : part.substr(equals + 1);
    if (value.empty()) return not_understood(part);
    if (!seen_.insert(key).second)
      return fail(Errc::invalid_argument, "device `{}`: {} is given twice; write {}", text_, key, kSpelling);
    if (key == "id") {
      options_.id = value;
    } else if (key == "slot") {
      if (!parse_slot(value, options_.slot))
        return fail(Errc::invalid_argument, "device `{}`: a slot is a number from 1 to {}; write {}", text_,
                    kMaxDevices, kSpelling);
    } else if (key == "dirty-page-tracking") {
      options_.dirty_tracking.tracker = vfio::tracker_kind_from(value);
      if (!options_.dirty_tracking.tracker && value != "auto") return cannot_be(key, value);
    } else if (key == "pre-copy-dirty-page-tracking") {
      options_.dirty_tracking.pre_copy = value == "on";
      if (value != "on" && value != "off") return cannot_be(key, value);
    } else if (key == "socket" && !kernel()) {
      options_.socket = value;
    } else if (kernel() && (key == "host" || key == "sysfsdev" || key == "fd")) {
      if (!options_.host.empty())
        return fail(Errc::invalid_argument, "device `{}`: where it is is given twice; write {}", text_,
                    kSpelling);
      options_.host = key == "fd" ? fmt::format("fd={}", value) : std::string(value);
    } else if (kernel() && key == "iommufd") {
      iommufd_ = value;
    } else {
      return not_understood(part);
    }
    return {};
  }

  std::unexpected<Error> not_understood(std::string_view part) const {
    return fail(Errc::invalid_argument, "device `{}`: `{}` is not understood; write {}", text_, part,
                kSpelling);
  }
  std::unexpected<Error> cannot_be(std::string_view key, std::string_view value) const {
    return fail(Errc::invalid_argument, "device `{}`: {} cannot be `{}`; write {}", text_, key, value,
                kSpelling);
  }

  Status check_complete() const {
    const auto* missing = kernel()                  ? options_.host.empty() ? "host" : nullptr
                          : options_.socket.empty() ? "socket"
                                                    : nullptr;
    if (!missing && options_.id.empty()) missing = "id";
    if (missing)
      return fail(Errc::invalid_argument, "device `{}`: {} is missing; write {}", text_, missing, kSpelling);
    if (!iommufd_.empty() && !seen_.contains("fd"))
      return fail(Errc::invalid_argument, "device `{}`: iommufd goes with fd; write {}", text_, kSpelling);
    if (!sound_id(options_.id))
      return fail(Errc::invalid_argument,
                  "device `{}`: an id has 1 to {} letters, digits, `-`, `_` or `.`; write {}", text_,
                  kMaxDeviceId, kSpelling);
    return {};
  }

  const std::string_view text_;
  DeviceOptions options_;
  std::string_view iommufd_;
  std::set<std::string_view> seen_;
};

}  // namespace

Result<DeviceOptions> parse_device_option(std::string_view text) {
  return DeviceParser(text).parse();
}

Status check_device(const DeviceOptions& device) {
  const bool kernel = device.kind == DeviceOptions::Kind::vfio_pci;
  if (!sound_id(device.id) || (kernel ? device.host : device.socket).empty())
    return fail(Errc::invalid_argument,
                "device `{}`: it needs a {} and an id of 1 to {} letters, digits, `-`, `_` or `.`", device.id,
                kernel ? "host" : "socket", kMaxDeviceId);
  if (device.slot > kMaxDevices)
    return fail(Errc::invalid_argument, "device `{}`: there is no PCI slot {}; slots are 1 to {}", device.id,
                device.slot, kMaxDevices);
  return {};
}

}  // namespace handover::vmm
