#pragma once

namespace handover::cli {

/// Asks the kernel to end this process (SIGTERM) when the one that started it ends, however that ends.  Does
/// so at once if the parent is gone already.
void exit_with_parent();

}  // namespace handover::cli
