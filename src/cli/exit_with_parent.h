#pragma once

#include "handover/base/result.h"

namespace handover::cli {

/// Asks the kernel to end this process (SIGTERM) when the one that started it ends, however that ends.  Fails
/// if it has ended already.
Status exit_with_parent();

}  // namespace handover::cli
