#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "handover/base/unique_fd.h"
#include "vfio_kernel/dma_space.h"

namespace handover::vfio_kernel {

/// A page table with dirty bits for an address space of iommufd's, or the reason why there is none.
struct DirtyTable {
  std::optional<std::uint32_t> id;
  std::string why_not = {};
};
/// Makes one, if the IOMMU before the device (a number of the iommufd's) can have one: it must be chosen
/// before the device is attached, since tables that the kernel makes by itself have none.
DirtyTable make_dirty_table(int iommufd, std::uint32_t device, std::uint32_t ioas);

/// An address space of iommufd's, for one device.
class IommufdSpace final : public DmaSpace {
 public:
  /// `table`: the page table that the device is attached to.
  IommufdSpace(UniqueFd fd, std::uint32_t ioas, DirtyTable table)
      : fd_(std::move(fd)), ioas_(ioas), table_(std::move(table)) {}
  /// The iommufd, and even the device, may be somebody else's as well, who goes on: nothing of ours stays
  /// there.
  ~IommufdSpace() override;
  int fd() const { return fd_.get(); }
  std::string name() const override { return "iommufd"; }
  std::vector<vfio::TrackerOffer> offers() override;
  Status take_away(const vfio::IovaRange& mapping) override;

 private:
  Status add(const vfio::DmaMapping& mapping) override;

  const UniqueFd fd_;
  const std::uint32_t ioas_;
  const DirtyTable table_;
};

}  // namespace handover::vfio_kernel
