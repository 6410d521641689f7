#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "handover/vfio/device.h"
#include "handover/vfio/iova_ranges.h"

namespace handover::test {

/// A device of which only the DMA is of interest: it writes where it has mappings, and its log keeps what was
/// written in the ranges that it was started with, and nothing else.  It may write by a thread of its own.
class LogDevice final : public vfio::Device, public vfio::DmaLog {
 public:
  explicit LogDevice(std::string id, bool has_log = true) : id_(std::move(id)), has_log_(has_log) {}

  // What the log can do.
  std::size_t most_ranges = 256;                 ///< that max_ranges() says
  std::size_t real_ranges = SIZE_MAX;            ///< that it takes
  std::uint64_t most_bytes = ~std::uint64_t{0};  ///< in all ranges together
  std::size_t fail_starts = 0;                   ///< the next so many fail
  bool fail_reports = false;
  std::size_t drop_bytes = 0;  ///< of each report
  bool gone = false;
  std::function<bool(const vfio::DmaMapping&)> refuse;  ///< to map it
  std::function<void(const char* where)> hook;          ///< another thread's turn, in the middle of a call

  std::function<void()> before_change;  ///< of mappings

  // What was asked of it.
  std::vector<std::vector<vfio::IovaRange>> starts;  ///< those that were refused too
  std::vector<vfio::IovaRange> armed;
  std::size_t stops = 0;
  std::size_t reports = 0;
  std::size_t asked_for_dirt = 0;  ///< unmappings

  struct Mapped {
    vfio::DmaMapping mapping;
    std::uint64_t first() const { return mapping.iova.value; }
    std::uint64_t end() const { return mapping.iova.value + mapping.size; }
  };
  std::map<std::uint64_t, Mapped> mappings;

  /// One page by DMA; returns where in its file, or nothing if the device may not write there.
  std::optional<std::uint64_t> write_page(Iova at) {
    std::lock_guard lock(mutex_);
    auto next = mappings.upper_bound(at.value);
    if (next == mappings.begin()) return std::nullopt;
    const auto& there = std::prev(next)->second;
    if (at.value >= there.end() || (there.mapping.flags & vfio::kDmaWrite) == 0) return std::nullopt;
    keep(at);
    return there.mapping.offset + (at.value - there.first());
  }
  /// As if one page was written, mapped or not.
  void log(Iova at) {
    std::lock_guard lock(mutex_);
    keep(at);
  }

  // Device
  Status dma_map(const vfio::DmaMapping& mapping) override {
    if (refuse && refuse(mapping)) return fail(Errc::device, "it has no room");
    std::lock_guard lock(mutex_);
    const auto next = mappings.lower_bound(mapping.iova.value);
    EXPECT_TRUE(next == mappings.end() || next->first >= mapping.iova.value + mapping.size);
    EXPECT_TRUE(next == mappings.begin() || std::prev(next)->second.end() <= mapping.iova.value);
    mappings[mapping.iova.value] = {mapping};
    return {};
  }
  Status dma_unmap(const vfio::IovaRange& range) override {
    std::lock_guard lock(mutex_);
    const auto place = mappings.find(range.start.value);
    if (place == mappings.end() || place->second.mapping.size != range.size)
      return fail(Errc::not_found, "nothing is mapped there");
    mappings.erase(place);
    return {};
  }
  void dma_change(std::span<vfio::DmaChange> changes, const vfio::DirtyReportSink* dirt) override {
    if (before_change) before_change();
    for (auto& change : changes) {
      if (change.kind == vfio::DmaChange::Kind::map) {
        change.result = dma_map(change.mapping);
        continue;
      }
      const vfio::IovaRange range{change.mapping.iova, change.mapping.size};
      std::unique_lock lock(mutex_);
      change.result = dma_unmap(range);
      if (!change.result || !dirt) continue;
      ++asked_for_dirt;
      // A log that is on answers for all, also for what it was not started for: there it knows nothing.
      const auto bits = take(range);
      const bool off = armed.empty();
      lock.unlock();
      change.result = off ? (*dirt)(vfio::DirtyReport::everything(range))
                          : (*dirt)({.range = range, .page_size = kPageSize, .bits = bits});
    }
  }
  vfio::DmaLog* dma_log() override { return has_log_ ? this : nullptr; }
  bool lost() const override { return gone; }

  // DmaLog
  Status start(std::uint64_t, std::span<const vfio::IovaRange> ranges) override {
    call_hook("start");
    starts.emplace_back(ranges.begin(), ranges.end());
    if (fail_starts > 0) {
      --fail_starts;
      return fail(Errc::device, "the log does not work");
    }
    if (!armed.empty()) return fail(Errc::state, "the log is on");
    if (ranges.size() > std::min(most_ranges, real_ranges))
      return fail(Errc::limit, "{} ranges are too many", ranges.size());
    std::uint64_t left = most_bytes;
    for (const auto& range : ranges) {
      if (range.size > left) return fail(Errc::limit, "it is too much");
      left -= range.size;
    }
    {
      std::lock_guard lock(mutex_);
      armed.assign(ranges.begin(), ranges.end());
      written_.clear();
    }
    call_hook("started");
    return {};
  }
  Result<std::vector<std::byte>> report(const vfio::IovaRange& range) override {
    ++reports;
    if (fail_reports) return fail(Errc::device, "the log cannot be read");
    EXPECT_TRUE(vfio::covered(armed, range)) << "it was never started for this";
    call_hook("report");
    auto bits = take(range);
    call_hook("reported");
    bits.resize(bits.size() - std::min(drop_bytes, bits.size()));
    return bits;
  }
  Status stop() override {
    ++stops;
    call_hook("stop");
    {
      std::lock_guard lock(mutex_);
      armed.clear();
      written_.clear();
    }
    call_hook("stopped");
    return {};
  }
  std::uint64_t page_size() const override { return kPageSize; }
  std::size_t max_ranges() const override { return most_ranges; }

  // What is of no interest.
  const std::string& id() const override { return id_; }
  const vfio::DeviceInfo& info() const override { return info_; }
  const vfio::RegionInfo& region(std::uint32_t) const override { return region_; }
  const vfio::IrqInfo& irq(std::uint32_t) const override { return irq_; }
  Status region_read(std::uint32_t, std::uint64_t, std::span<std::byte>) override { return {}; }
  Status region_write(std::uint32_t, std::uint64_t, std::span<const std::byte>) override { return {}; }
  Result<Mapping> map_area(std::uint32_t, const vfio::RegionArea&) override { return Mapping{}; }
  Status set_irq_eventfds(std::uint32_t, std::span<const int>) override { return {}; }
  Status reset() override { return {}; }
  vfio::MigrationProtocol* migration() override { return nullptr; }
  std::string migration_blocker() const override { return "it is a test's"; }
  void on_lost(std::function<void(std::string)>) override {}

 private:
  void call_hook(const char* where) {
    if (hook) hook(where);
  }
  // Under the lock.
  void keep(Iova at) {
    if (vfio::covered(armed, {at, 1})) written_.insert(at.value / kPageSize);
  }
  // What was written in the range, which is forgotten.
  std::vector<std::byte> take(const vfio::IovaRange& range) {
    std::lock_guard lock(mutex_);
    const auto first = range.start.value / kPageSize;
    const auto pages = (range.size - 1) / kPageSize + 1;
    std::vector<std::byte> bits((pages + 7) / 8);
    const auto from = written_.lower_bound(first), to = written_.lower_bound(first + pages);
    for (auto at = from; at != to; ++at)
      bits[(*at - first) / 8] |= std::byte{1} << (*at - first) % 8;
    written_.erase(from, to);
    return bits;
  }

  std::string id_;
  bool has_log_;
  std::recursive_mutex mutex_;       // leaf: what is mapped, and the log
  std::set<std::uint64_t> written_;  // pages of IOVA, since the last report
  vfio::DeviceInfo info_;
  vfio::RegionInfo region_;
  vfio::IrqInfo irq_;
};

}  // namespace handover::test
