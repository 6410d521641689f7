#pragma once

#include <string>
#include <utility>
#include <vector>

#include "handover/base/unique_fd.h"
#include "vfio_kernel/dma_space.h"

namespace handover::vfio_kernel {

/// An address space of VFIO's own: a container of type1 v2.
class Type1Container final : public DmaSpace {
 public:
  explicit Type1Container(UniqueFd fd) : fd_(std::move(fd)) {}
  int fd() const { return fd_.get(); }
  std::string name() const override { return "the type1 container"; }
  std::vector<vfio::TrackerOffer> offers() override;
  Status take_away(const vfio::IovaRange& mapping) override;

 private:
  Status add(const vfio::DmaMapping& mapping) override;

  const UniqueFd fd_;
};

}  // namespace handover::vfio_kernel
