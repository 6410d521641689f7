#include "vfio_kernel/refusals.h"

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "vfio_kernel/node_users.h"

namespace handover::vfio_kernel {
namespace {

// The nodes by which a device of the group can be open.
std::vector<std::string> nodes_of_group(const DevicePlace& place) {
  std::vector<std::string> nodes;
  if (place.group) nodes.push_back("/dev/vfio/" + *place.group);
  if (place.cdev) nodes.push_back("/dev/vfio/devices/" + *place.cdev);
  for (const auto& other : others_in_group(place))
    if (other.cdev) nodes.push_back("/dev/vfio/devices/" + *other.cdev);
  return nodes;
}

bool has_foreign_driver(const DevicePlace& place) {
  return std::ranges::any_of(others_in_group(place), &GroupMember::stands_in_the_way);
}

std::string in_use(const DevicePlace& place, const NodeUsers& users) {
  if (!users.this_process)
    return fmt::format("its IOMMU group {} is in use by {}; one process at a time can have it",
                       place.group.value_or("?"), users.to_string());
  if (others_in_group(place).empty()) return "it is open in this process already";
  return fmt::format(
      "another device of its IOMMU group {} is open in this process; devices of one group share one address "
      "space for DMA, and here each has its own, so only one device of a group can be open at a time",
      place.group.value_or("?"));
}

bool allows_unsafe_interrupts(const std::string& module) {
  std::string value;
  std::getline(std::ifstream("/sys/module/" + module + "/parameters/allow_unsafe_interrupts"), value);
  return value == "Y";
}

std::string unsafe_interrupts(const std::string& module) {
  return fmt::format(
      "the IOMMU does not remap interrupts, so a device could raise any interrupt of this host by a write to "
      "memory; turn interrupt remapping on (firmware; not intremap=off on the kernel's command line), or, if "
      "the device and who drives it are trusted, accept the risk, as root: "
      "`echo 1 > /sys/module/{0}/parameters/allow_unsafe_interrupts` (lasting: {0}.allow_unsafe_interrupts=1 "
      "on the kernel's command line)",
      module);
}

}  // namespace

std::unexpected<Error> explain_not_viable(const DevicePlace& place) {
  std::string others;
  std::string way_out;
  for (const auto& other : others_in_group(place)) {
    others += fmt::format("{}{} ({})", others.empty() ? "" : ", ", other.name,
                          other.driver ? "driver " + *other.driver : "no driver");
    if (other.stands_in_the_way())
      way_out += (way_out.empty() ? "" : " && ") + bind_command(other.name, other.driver);
  }
  if (way_out.empty()) return fail(Errc::state, "{}", in_use(place, users_of(nodes_of_group(place), 1)));
  return fail(Errc::state,
              "its IOMMU group {} is not viable: its devices are not isolated from each other, so all must "
              "have VFIO drivers or none; the others are {}; take them from whoever uses them, as root: `{}`",
              *place.group, others, way_out);
}

std::unexpected<Error> explain_group_open(const DevicePlace& place, Error error) {
  if (error.sys_errno() == EBUSY)
    error = std::move(error).with_context(in_use(place, users_of(nodes_of_group(place))));
  return std::unexpected(std::move(error));
}

std::unexpected<Error> explain_set_iommu(const DevicePlace& place, Error error) {
  auto what = fmt::format("giving group {} an IOMMU address space", place.group.value_or("?"));
  if (error.sys_errno() == EPERM) what += " (" + unsafe_interrupts("vfio_iommu_type1") + ")";
  return std::unexpected(std::move(error).with_context(std::move(what)));
}

std::unexpected<Error> explain_bind(const DevicePlace& place, Error error, bool inherited) {
  const int err = error.sys_errno();
  if (err == EPERM && has_foreign_driver(place)) return explain_not_viable(place);
  auto what = "binding " + place.cdev.value_or("it") + " to iommufd";
  if (err == EINVAL && inherited) {
    what += " (is it bound already? it must be handed over as it was opened, and nobody else may have it)";
  } else if (err == EINVAL) {
    // The kernel's word for a device that somebody else has bound, among other things.
    const auto users = users_of({"/dev/vfio/devices/" + place.cdev.value_or("")}, 1);
    const bool seen = users.this_process || !users.others.empty();
    what += seen ? " (it is in use by " + users.to_string() + ")" : " (is it in use by another process?)";
  } else if (err == EBUSY || err == EPERM) {
    // EPERM: the group's DMA is another iommufd's, or interrupts are not isolated.
    const auto users = users_of(nodes_of_group(place), 1);
    const bool used = users.this_process || !users.others.empty();
    if (err == EBUSY || used || allows_unsafe_interrupts("iommufd"))
      what += " (" + in_use(place, users) + ")";
    else if (others_in_group(place).empty())
      what += " (" + unsafe_interrupts("iommufd") + ")";
    else  // Who has them may be hidden from this user.
      what += " (unless another device of its IOMMU group is in use: " + unsafe_interrupts("iommufd") + ")";
  }
  return std::unexpected(std::move(error).with_context(std::move(what)));
}

}  // namespace handover::vfio_kernel
