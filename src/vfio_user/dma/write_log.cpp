#include "vfio_user/dma/write_log.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <mutex>

namespace handover::vfio_user {
namespace {

constexpr auto kTop = std::numeric_limits<std::uint64_t>::max();

template <class... Args>
std::unexpected<Error> refuse_start(int err, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(
      Error(Errc::invalid_argument, fmt::format(format, std::forward<Args>(args)...), err));
}

}  // namespace

Status WriteLog::check(std::span<const Part> sorted) const {
  if (limits_.ranges > 0 && sorted.size() > limits_.ranges)
    return refuse_start(E2BIG, "a log of {} ranges; at most {} are possible", sorted.size(), limits_.ranges);
  for (std::size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i].first <= sorted[i - 1].last)
      return refuse_start(EINVAL, "the ranges at {:#x} and {:#x} overlap", sorted[i - 1].first,
                          sorted[i].first);
  if (limits_.bytes == 0) return {};
  auto left = limits_.bytes;
  for (const auto& part : sorted) {
    if (part.last - part.first >= left)
      return refuse_start(EOPNOTSUPP, "a log of more than {} bytes", limits_.bytes);
    left -= part.last - part.first + 1;
  }
  return {};
}

Status WriteLog::start(std::span<const protocol::LoggedRange> ranges) {
  std::vector<Part> parts;
  for (const auto& range : ranges) {
    const auto last = range.iova + (range.length - 1);
    if (range.length == 0 || last < range.iova)
      return refuse_start(EINVAL, "the range at {:#x} is empty or wraps", range.iova);
    parts.push_back({range.iova, last});
  }
  if (!limits_) {
    if (!on_) log_.clear();
    on_ = true;
    return {};
  }
  if (parts.empty()) parts.push_back({0, kTop});
  std::ranges::sort(parts, {}, &Part::first);
  HANDOVER_TRY(check(parts));
  std::unique_lock lock(mutex_);
  if (on_)
    forget_all_but(parts);
  else
    log_.clear();
  parts_ = std::move(parts);
  on_ = true;
  return {};
}

void WriteLog::forget_all_but(std::span<const Part> sorted) {
  std::uint64_t next = 0;
  for (const auto& part : sorted) {
    if (part.first > next) log_.forget(next, part.first - 1);
    if (part.last == kTop) return;
    next = part.last + 1;
  }
  log_.forget(next, kTop);
}

// A writer that found the log on a moment ago may still mark; the next start clears that.
void WriteLog::stop() {
  on_ = false;
  std::unique_lock lock(mutex_);
  log_.clear();
}

void WriteLog::written(std::uint64_t start, std::uint64_t size) {
  if (!on_ || size == 0) return;
  if (!limits_) return log_.mark(start, size);
  const auto last = start + (size - 1);
  std::shared_lock lock(mutex_);
  for (auto part = std::ranges::lower_bound(parts_, start, {}, &Part::last);
       part != parts_.end() && part->first <= last; ++part) {
    const auto from = std::max(part->first, start);
    log_.mark(from, std::min(part->last, last) - from + 1);
  }
}

}  // namespace handover::vfio_user
