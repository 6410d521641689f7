#include "cli/device_target.h"

#include <algorithm>
#include <vector>

#include <fmt/ranges.h>

#include "handover/vfio_kernel/open_device.h"
#include "handover/vfio_user/client.h"

namespace handover::cli {
namespace {

struct KindName {
  DeviceTarget::Kind kind;
  std::string_view name;
  std::string_view where;  // what follows the colon
};
constexpr KindName kKinds[] = {
    {DeviceTarget::Kind::vfio_user, "vfio-user", "/path/of/the.sock"},
    {DeviceTarget::Kind::vfio, "vfio",
     "0000:41:00.3 (or a folder in /sys, /dev/vfio/devices/vfioN, or fd=N[,iommufd=M])"},
};

std::string known_kinds() {
  std::vector<std::string> forms;
  for (const auto& each : kKinds)
    forms.push_back(fmt::format("{}:{}", each.name, each.where));
  return fmt::format("{}", fmt::join(forms, " or "));
}

}  // namespace

Result<DeviceTarget> DeviceTarget::parse(std::string_view text) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos)
    return fail(Errc::invalid_argument, "`{}` does not say what kind of device it is; write {}", text,
                known_kinds());
  const auto known = std::ranges::find(kKinds, text.substr(0, colon), &KindName::name);
  if (known == std::end(kKinds))
    return fail(Errc::invalid_argument, "`{}` is no kind of device; write {}", text.substr(0, colon),
                known_kinds());
  if (colon + 1 == text.size())
    return fail(Errc::invalid_argument, "`{}` does not say where the device is; write {}:{}", text,
                known->name, known->where);
  return DeviceTarget{known->kind, std::string(text.substr(colon + 1))};
}

std::string DeviceTarget::to_string() const {
  return fmt::format("{}:{}", std::ranges::find(kKinds, kind, &KindName::kind)->name, path);
}

Result<std::unique_ptr<vfio::Device>> open_target(const DeviceTarget& target, GuestMemory& memory,
                                                  CancelToken cancel, const OpenOptions& options) {
  switch (target.kind) {
    case DeviceTarget::Kind::vfio_user:
      return vfio_user::connect({target.to_string(), target.path, options.timeout, options.keep_state},
                                memory, std::move(cancel));
    case DeviceTarget::Kind::vfio:
      return vfio_kernel::open_device(
          {.id = target.to_string(), .where = target.path, .keep_state = options.keep_state});
  }
  return fail(Errc::unsupported, "no way to open {}", target.to_string());
}

}  // namespace handover::cli
