#include "memory/backed_pages.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace handover {

PageRun BackedPages::next(PageRun within) {
  const std::uint64_t end = within.first + within.count;
  if (within.first < first_ || within.first >= end_) find_extent(within.first, end);
  const std::uint64_t first = std::clamp(first_, within.first, end);
  return {first, std::clamp(end_, first, end) - first};
}

void BackedPages::find_extent(std::uint64_t from, std::uint64_t before) {
  first_ = from;
  end_ = block_.pages();
  const off_t data = ::lseek(block_.fd(), static_cast<off_t>(from * kPageSize), SEEK_DATA);
  if (data < 0) {
    // No data up to the end; or the host cannot tell, which is as good as backed.
    if (errno == ENXIO) first_ = end_;
    return;
  }
  first_ = std::max(static_cast<std::uint64_t>(data) / kPageSize, from);
  if (first_ >= before) {
    // Not wanted yet.  SEEK_HOLE looks at every page of the extent, so it is asked once, when it is reached.
    end_ = first_;
    return;
  }
  const off_t hole = ::lseek(block_.fd(), data, SEEK_HOLE);
  if (hole >= 0) end_ = (static_cast<std::uint64_t>(hole) + kPageSize - 1) / kPageSize;
}

}  // namespace handover
