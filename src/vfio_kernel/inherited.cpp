#include "vfio_kernel/inherited.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string_view>

namespace handover::vfio_kernel {
namespace {

namespace fs = std::filesystem;

std::optional<int> descriptor_from(std::string_view text) {
  int number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

// The folder that sysfs has for the node that a descriptor is of.
Result<fs::path> folder_of(int fd, std::string_view meant) {
  struct stat about{};
  if (::fstat(fd, &about) != 0)
    return fail_errno(errno, "descriptor {} is not open here; it is to be {}", fd, meant);
  if (!S_ISCHR(about.st_mode))
    return fail(Errc::invalid_argument, "descriptor {} is of no device node; it is to be {}", fd, meant);
  const int flags = ::fcntl(fd, F_GETFL);
  if ((flags & O_ACCMODE) != O_RDWR)
    return fail(Errc::invalid_argument, "descriptor {} is not open for reading and writing", fd);
  const auto link = fmt::format("/sys/dev/char/{}:{}", major(about.st_rdev), minor(about.st_rdev));
  std::error_code missing;
  auto folder = fs::canonical(link, missing);
  if (missing) return fail(Errc::not_found, "descriptor {}: {} does not exist", fd, link);
  return folder;
}

Result<UniqueFd> copy_of(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(errno, "cannot duplicate descriptor {}", fd);
  return copy;
}

constexpr std::string_view kCdev = "a VFIO device's character device (/dev/vfio/devices/vfioN)";
constexpr std::string_view kIommu = "/dev/iommu";

}  // namespace

Result<std::optional<Inherited>> Inherited::parse(const std::string& where) {
  constexpr std::string_view kDevice = "fd=";
  constexpr std::string_view kIommufd = ",iommufd=";
  if (!where.starts_with(kDevice)) return std::nullopt;
  auto device = std::string_view(where).substr(kDevice.size());
  std::optional<std::string_view> iommufd;
  if (const auto comma = device.find(','); comma != std::string_view::npos) {
    const auto rest = device.substr(comma);
    if (rest.starts_with(kIommufd)) iommufd = rest.substr(kIommufd.size());
    if (iommufd) device = device.substr(0, comma);
  }
  const auto number = descriptor_from(device);
  const auto other = iommufd ? descriptor_from(*iommufd) : std::nullopt;
  if (!number || (iommufd && !other))
    return fail(Errc::invalid_argument,
                "`{}` names no descriptors; write fd=N, or fd=N,iommufd=M, with their numbers", where);
  Inherited inherited;
  inherited.device_ = *number;
  inherited.iommufd_ = other.value_or(-1);
  return inherited;
}

Result<DevicePlace> Inherited::find_device() const {
  HANDOVER_ASSIGN(const auto node, folder_of(device_, kCdev));
  if (node.parent_path().filename() != "vfio-dev")
    return fail(Errc::invalid_argument, "descriptor {} is of {}, not of {}", device_,
                node.filename().string(), kCdev);
  if (iommufd_ >= 0) {
    HANDOVER_ASSIGN(const auto iommu, folder_of(iommufd_, kIommu));
    if (iommu.filename() != "iommu")
      return fail(Errc::invalid_argument, "descriptor {} is of {}, not of {}", iommufd_,
                  iommu.filename().string(), kIommu);
  }
  return vfio_kernel::find_device((node / "device").string());
}

Result<UniqueFd> Inherited::device() const {
  return copy_of(device_);
}

Result<UniqueFd> Inherited::iommufd() const {
  if (iommufd_ < 0) return UniqueFd();
  return copy_of(iommufd_);
}

void Inherited::settle() const {
  ::close(device_);
  if (iommufd_ >= 0) ::fcntl(iommufd_, F_SETFD, FD_CLOEXEC);
}

}  // namespace handover::vfio_kernel
