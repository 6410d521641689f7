#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "handover/base/units.h"
#include "handover/vfio/device.h"

namespace handover::vfio_kernel {

/// What a tracker reported.
struct FoundDirt {
  std::set<std::uint64_t> pages;                                ///< their addresses
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  ///< start and size of each report
  std::size_t unknown = 0;                                      ///< reports without bits

  vfio::DirtyReportSink sink() {
    return [this](const vfio::DirtyReport& report) -> Status {
      const auto start = report.range.start.value;
      ranges.emplace_back(start, report.range.size);
      if (report.page_size == 0) ++unknown;
      if (report.page_size != 0 && report.page_size != kPageSize)
        return fail(Errc::protocol, "pages of {} bytes", report.page_size);
      for (std::uint64_t page = 0; page < report.range.size / kPageSize; ++page)
        if (report.page_size == 0 || (std::to_integer<unsigned>(report.bits[page / 8]) >> page % 8 & 1) != 0)
          pages.insert(start + page * kPageSize);
      return {};
    };
  }
};

/// The addresses of all pages of a range.
inline std::set<std::uint64_t> pages_of(std::uint64_t start, std::uint64_t size) {
  std::set<std::uint64_t> pages;
  for (auto at = start; at < start + size; at += kPageSize)
    pages.insert(at);
  return pages;
}

inline vfio::DmaChange unmapping(std::uint64_t start, std::uint64_t size) {
  vfio::DmaChange change{.kind = vfio::DmaChange::Kind::unmap, .mapping = {}};
  change.mapping.iova = Iova{start};
  change.mapping.size = size;
  return change;
}

}  // namespace handover::vfio_kernel
