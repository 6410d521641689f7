#include "vfio_kernel/device_place.h"

#include <algorithm>
#include <filesystem>

namespace handover::vfio_kernel {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> link_name(const fs::path& link) {
  std::error_code none;
  const auto target = fs::read_symlink(link, none);
  if (none) return std::nullopt;
  return target.filename().string();
}

std::optional<std::string> cdev_of(const fs::path& sysfs) {
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(sysfs / "vfio-dev", none))
    return entry.path().filename().string();
  return std::nullopt;
}

// `41:00.3` and `0000:41:00.3`.
bool is_pci_address(const std::string& text) {
  const auto colons = std::ranges::count(text, ':');
  return (colons == 1 || colons == 2) && std::ranges::count(text, '.') == 1 &&
         text.find_first_not_of("0123456789abcdefABCDEF:.") == std::string::npos;
}

Result<fs::path> folder_of(const std::string& where) {
  if (is_pci_address(where)) {
    auto address = std::ranges::count(where, ':') == 1 ? "0000:" + where : where;
    std::ranges::transform(address, address.begin(), [](unsigned char c) { return std::tolower(c); });
    return fs::path("/sys/bus/pci/devices") / address;
  }
  constexpr std::string_view kCdevs = "/dev/vfio/devices/";
  if (where.starts_with(kCdevs))
    return fs::path("/sys/class/vfio-dev") / where.substr(kCdevs.size()) / "device";
  if (where.starts_with("/sys/")) return fs::path(where);
  return fail(Errc::invalid_argument,
              "`{}` names no device; give a PCI address (0000:41:00.3), a folder in sysfs "
              "(/sys/bus/mdev/devices/UUID), a character device (/dev/vfio/devices/vfio0) or an open one's "
              "number (fd=N)",
              where);
}

}  // namespace

Result<DevicePlace> find_device(const std::string& where) {
  HANDOVER_ASSIGN(const auto folder, folder_of(where));
  std::error_code missing;
  const auto real = fs::canonical(folder, missing);
  if (missing)
    return fail(Errc::not_found, "there is no device {}: {} does not exist", where, folder.string());
  DevicePlace place;
  place.name = real.filename().string();
  place.sysfs = real.string();
  place.bus = link_name(real / "subsystem").value_or("");
  place.driver = link_name(real / "driver");
  place.group = link_name(real / "iommu_group");
  place.cdev = cdev_of(real);
  return place;
}

std::vector<GroupMember> others_in_group(const DevicePlace& device) {
  std::vector<GroupMember> others;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(fs::path(device.sysfs) / "iommu_group/devices", none))
    if (const auto name = entry.path().filename().string(); name != device.name)
      others.push_back({name, link_name(entry.path() / "driver"), cdev_of(entry.path())});
  std::ranges::sort(others, {}, &GroupMember::name);
  return others;
}

bool GroupMember::stands_in_the_way() const {
  // Drivers of bridges leave the DMA of the devices behind them alone.
  return driver && !cdev && driver->find("vfio") == std::string::npos && *driver != "pcieport" &&
         *driver != "pci-stub" && *driver != "shpchp";
}

std::string bind_command(const std::string& address, const std::optional<std::string>& driver) {
  const auto unbind =
      driver ? fmt::format("echo {} > /sys/bus/pci/drivers/{}/unbind && ", address, *driver) : std::string();
  return fmt::format(
      "echo vfio-pci > /sys/bus/pci/devices/{0}/driver_override && {1}"
      "echo {0} > /sys/bus/pci/drivers_probe",
      address, unbind);
}

Status explain_place(const DevicePlace& device) {
  // First: without an IOMMU no VFIO driver takes a PCI device.
  if (!device.group && !device.cdev)
    return fail(
        Errc::unsupported,
        "it is in no IOMMU group, so there is no IOMMU before it; turn it on in the firmware (VT-d, AMD-Vi, "
        "SMMU) and on the kernel's command line (intel_iommu=on; AMD's needs no word there)");
  if (!device.is_vfio_driver() && device.bus == "pci")
    return fail(
        Errc::state,
        "it is bound to {}, not to a VFIO driver; as root: `{}` (for its vendor's VFIO driver, which it "
        "needs to migrate, put that name in the place of vfio-pci)",
        device.driver ? "the driver " + *device.driver : "no driver",
        bind_command(device.name, device.driver));
  return {};
}

}  // namespace handover::vfio_kernel
