#pragma once

#include <string>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::vfio_kernel {

/// Opens one of the kernel's VFIO nodes for reading and writing; a failure says what stands in the way.
Result<UniqueFd> open_node(const std::string& path);

}  // namespace handover::vfio_kernel
