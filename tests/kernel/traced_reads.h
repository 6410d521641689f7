#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace handover {

/// One read() of a device's state that a process asked the kernel for.
struct TracedRead {
  std::uint64_t asked = 0;
  std::int64_t got = 0;  ///< or -errno
};

struct TracedRun {
  int exit_code = -1;  ///< -1: it did not end by itself
  std::vector<TracedRead> reads;
};

/// Runs `child` in a process of its own, whose threads are traced (ptrace), and lists what it reads from
/// descriptors whose name in /proc has `name` in it.  `child` returns the exit code, or execs.
TracedRun trace_reads(const char* name, const std::function<int()>& child);

}  // namespace handover
