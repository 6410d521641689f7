#pragma once

#include <string>
#include <vector>

namespace handover::vfio_kernel {

/// Who has one of these files open, as far as this user may see it.  Walks /proc: only for messages.
struct NodeUsers {
  bool this_process = false;
  std::vector<std::string> others;  ///< "process 812 (qemu-system-x86)"

  /// "process 812 (qemu-system-x86)", "this process"; "another process" if nobody can be seen.
  std::string to_string() const;
};
/// `own_open` descriptors of this process do not count: those that the caller has just opened itself.
NodeUsers users_of(const std::vector<std::string>& paths, std::size_t own_open = 0);

}  // namespace handover::vfio_kernel
