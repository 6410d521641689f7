#pragma once

#include <optional>
#include <string>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "vfio_kernel/device_place.h"

namespace handover::vfio_kernel {

/// A device's character device, and maybe /dev/iommu, that somebody with the right to it has opened and left
/// to this process: `fd=N` or `fd=N,iommufd=M`.
class Inherited {
 public:
  /// Empty if `where` does not begin with `fd=`.
  static Result<std::optional<Inherited>> parse(const std::string& where);

  /// The device that the descriptor is of.  Fails if the descriptors are not what they are said to be.
  Result<DevicePlace> find_device() const;

  /// Descriptors of our own (the second is empty without iommufd=).
  Result<UniqueFd> device() const;
  Result<UniqueFd> iommufd() const;
  /// The device is open by our own descriptor: the one that was left to us goes, so that nothing but ours
  /// keeps it; /dev/iommu may serve other devices as well, and stays, but goes to no program that is started.
  void settle() const;

 private:
  int device_ = -1;
  int iommufd_ = -1;
};

}  // namespace handover::vfio_kernel
