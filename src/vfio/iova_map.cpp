#include "handover/vfio/iova_map.h"

#include <algorithm>
#include <limits>

#include "handover/vfio/iova_ranges.h"
#include "vfio/bit_runs.h"

namespace handover::vfio {
namespace {

std::uint64_t last_of(const IommuMapping& mapping) {
  return mapping.iova.value + (mapping.size - 1);
}
std::uint64_t last_of(const IovaRange& range) {
  return range.start.value + (range.size - 1);
}

/// Whether the bits are as many as the range needs.
bool complete(const DirtyReport& report) {
  return report.page_size == 0 || report.bits.size() > (report.range.size - 1) / report.page_size / 8;
}

/// Mappings looked at before others get their turn with the lock.
constexpr std::size_t kSlice = 1024;

}  // namespace

const IommuMapping* MappingTable::at_or_after(Iova iova) const {
  const auto later = buckets_.upper_bound(iova.value / kBucketBytes);
  const auto* next = later == buckets_.end() ? nullptr : &later->second.front();
  if (later == buckets_.begin()) return next;
  const auto here = std::prev(later);
  const auto after = std::ranges::upper_bound(here->second, iova, {}, &IommuMapping::iova);
  if (after != here->second.end()) next = &*after;
  const IommuMapping* before = nullptr;
  if (after != here->second.begin())
    before = &*std::prev(after);
  else if (here != buckets_.begin())
    before = &std::prev(here)->second.back();
  return before && last_of(*before) >= iova.value ? before : next;
}

const IommuMapping* MappingTable::at(Iova iova) const {
  const auto* mapping = at_or_after(iova);
  return mapping && mapping->iova <= iova ? mapping : nullptr;
}

const IommuMapping* MappingTable::add(const IommuMapping& mapping) {
  const auto* next = at_or_after(mapping.iova);
  if (next && next->iova.value <= last_of(mapping)) return nullptr;
  auto& bucket = buckets_[mapping.iova.value / kBucketBytes];
  ++size_;
  return &*bucket.insert(std::ranges::upper_bound(bucket, mapping.iova, {}, &IommuMapping::iova), mapping);
}

void MappingTable::remove(Iova start) {
  const auto place = buckets_.find(start.value / kBucketBytes);
  if (place == buckets_.end()) return;
  auto& bucket = place->second;
  const auto mapping = std::ranges::lower_bound(bucket, start, {}, &IommuMapping::iova);
  if (mapping == bucket.end() || mapping->iova != start) return;
  bucket.erase(mapping);
  --size_;
  if (bucket.empty()) buckets_.erase(place);
}

void MappingTable::clear() {
  buckets_.clear();
  size_ = 0;
}

Result<std::vector<IommuMapping>> MappingTable::inside(const IovaRange& range) const {
  std::vector<IommuMapping> found;
  if (range.size == 0) return found;
  for (const auto* each = at_or_after(range.start); each && each->iova.value <= last_of(range);
       each = last_of(*each) == std::numeric_limits<std::uint64_t>::max()
                  ? nullptr
                  : at_or_after(Iova{last_of(*each) + 1})) {
    if (each->iova < range.start || last_of(*each) > last_of(range))
      return fail(Errc::invalid_argument, "the mapping at {:#x} would be cut", each->iova.value);
    found.push_back(*each);
  }
  return found;
}

std::vector<IommuMapping> MappingTable::all() const {
  std::vector<IommuMapping> mappings;
  mappings.reserve(size_);
  for (const auto& [key, bucket] : buckets_)
    mappings.insert(mappings.end(), bucket.begin(), bucket.end());
  return mappings;
}

// Under the lock.
void IovaMap::count(const IommuMapping& mapping, int by) {
  if ((mapping.flags & kDmaWrite) == 0) return;
  for (auto chunk = mapping.iova.value / kChunk; chunk <= last_of(mapping) / kChunk; ++chunk) {
    auto& users = chunks_[chunk];
    users += static_cast<std::uint64_t>(by);
    if (users == 0) chunks_.erase(chunk);
  }
}

bool IovaMap::add(const IommuMapping& mapping) {
  std::lock_guard lock(mutex_);
  if (!live_.add(mapping)) return false;
  count(mapping, 1);
  return true;
}

void IovaMap::going(const IommuMapping& mapping) {
  std::lock_guard lock(mutex_);
  const auto* there = live_.at(mapping.iova);
  if (!there || *there != mapping) return;
  live_.remove(mapping.iova);
  going_.push_back(mapping);
}

void IovaMap::gone(const IommuMapping& mapping) {
  std::lock_guard lock(mutex_);
  const auto place = std::ranges::find(going_, mapping);
  if (place == going_.end()) return;
  going_.erase(place);
  // Who marks all that is mapped has to come by its place, too.
  if (held_)
    gone_.push_back(mapping);
  else
    count(mapping, -1);
}

std::size_t IovaMap::size() const {
  std::lock_guard lock(mutex_);
  return live_.size();
}

std::vector<IovaRange> IovaMap::mapped() const {
  std::vector<IovaRange> ranges;
  std::lock_guard lock(mutex_);
  for (const auto& [chunk, users] : chunks_)
    ranges.push_back({Iova{chunk * kChunk}, kChunk});
  return merge_ranges(std::move(ranges), std::numeric_limits<std::size_t>::max());
}

void IovaMap::hold() {
  std::lock_guard lock(mutex_);
  held_ = true;
}

void IovaMap::release() {
  std::lock_guard lock(mutex_);
  held_ = false;
  for (const auto& mapping : gone_)
    count(mapping, -1);
  gone_.clear();
}

// The live mappings in [first, last].
std::uint64_t IovaMap::mark_live(std::uint64_t first, std::uint64_t last, DirtyMemory& to) const {
  std::uint64_t fresh = 0;
  for (;;) {
    std::lock_guard lock(mutex_);
    for (std::size_t i = 0;; ++i) {
      const auto* mapping = live_.at_or_after(Iova{first});
      if (!mapping || mapping->iova.value > last) return fresh;
      const auto from = std::max(first, mapping->iova.value);
      const auto end = std::min(last, last_of(*mapping));
      if (mapping->flags & kDmaWrite)
        fresh += to.mark(mapping->target + (from - mapping->iova.value), end - from + 1);
      if (end == last) return fresh;
      first = end + 1;
      if (i == kSlice) break;
    }
  }
}

std::vector<IommuMapping> IovaMap::former(const IovaRange& range) const {
  std::vector<IommuMapping> mappings;
  std::lock_guard lock(mutex_);
  for (const auto* list : {&going_, &gone_})
    for (const auto& each : *list)
      if ((each.flags & kDmaWrite) && each.iova.value <= last_of(range) && last_of(each) >= range.start.value)
        mappings.push_back(each);
  return mappings;
}

Result<std::uint64_t> IovaMap::mark(const DirtyReport& report, DirtyMemory& to) const {
  if (report.range.size == 0) return 0;
  if (!complete(report))
    return fail(Errc::protocol, "a dirty report of [{:#x}, +{:#x}) has only {} bytes of bitmap",
                report.range.start.value, report.range.size, report.bits.size());
  std::uint64_t fresh = 0;
  const auto first = report.range.start.value;
  const auto last = last_of(report.range);
  if (report.page_size == 0)
    fresh += mark_live(first, last, to);
  else
    for_each_bit_run(report.bits, 0, (report.range.size - 1) / report.page_size + 1,
                     [&](std::uint64_t bit, std::uint64_t count) {
                       const auto from = first + bit * report.page_size;
                       fresh += mark_live(from, std::min(last, from + (count * report.page_size - 1)), to);
                     });
  // After the live ones: what went between the two looks is found here.
  for (const auto& mapping : former(report.range))
    for_each_written(mapping, report, [&](Gpa at, std::uint64_t size) { fresh += to.mark(at, size); });
  return fresh;
}

void for_each_written(const IommuMapping& mapping, const DirtyReport& report,
                      const std::function<void(Gpa start, std::uint64_t size)>& visit) {
  if (report.range.size == 0) return;
  const auto first = std::max(mapping.iova.value, report.range.start.value);
  const auto last = std::min(last_of(mapping), last_of(report.range));
  if (first > last) return;
  const auto at = [&](std::uint64_t iova) { return mapping.target + (iova - mapping.iova.value); };
  if (report.page_size == 0 || !complete(report)) return visit(at(first), last - first + 1);
  const auto start = report.range.start.value;
  for_each_bit_run(report.bits, (first - start) / report.page_size, (last - start) / report.page_size + 1,
                   [&](std::uint64_t bit, std::uint64_t count) {
                     const auto from = std::max(first, start + bit * report.page_size);
                     const auto end = std::min(last, start + ((bit + count) * report.page_size - 1));
                     visit(at(from), end - from + 1);
                   });
}

}  // namespace handover::vfio
