#include "devices/accelerator/memory_claims.h"

#include <algorithm>

namespace handover::accelerator {
namespace {

std::uint64_t end_of(const PageRun& run) {
  return run.first + run.count;
}

bool overlap(const PageRun& a, const PageRun& b) {
  return a.count != 0 && b.count != 0 && a.first < end_of(b) && b.first < end_of(a);
}

}  // namespace

void MemoryClaims::begin_write(PageRun pages) {
  std::unique_lock lock(mutex_);
  read_ended_.wait(lock, [&] { return !overlap(reading_, pages); });
  writing_ = pages;
}

void MemoryClaims::end_write() {
  std::lock_guard lock(mutex_);
  writing_ = {};
}

PageRun MemoryClaims::begin_read(PageRun wanted) {
  std::lock_guard lock(mutex_);
  if (overlap(wanted, writing_)) {
    if (wanted.first < writing_.first) {
      wanted.count = writing_.first - wanted.first;
    } else {
      const std::uint64_t from = std::min(end_of(writing_), end_of(wanted));
      wanted = {from, end_of(wanted) - from};
    }
  }
  reading_ = wanted;
  return wanted;
}

void MemoryClaims::end_read() {
  {
    std::lock_guard lock(mutex_);
    reading_ = {};
  }
  read_ended_.notify_one();
}

}  // namespace handover::accelerator
