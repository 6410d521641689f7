#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio/iommu_endpoint.h"
#include "unit/vfio/log_device.h"

namespace handover::vfio {

using Pages = std::set<std::uint64_t>;

inline constexpr std::uint64_t kRam = 512;  // pages
inline constexpr std::uint32_t kDomain = 1;
inline constexpr std::uint64_t kChunk = IovaMap::kChunk / kPageSize;  // pages

/// Lets another thread have its turn where the migration's is about to look.
class InterruptedView final : public DmaView {
 public:
  explicit InterruptedView(IovaMap& map) : map_(map) {}
  std::vector<IovaRange> reach() const override { return turn("reach"), map_.reach(); }
  std::vector<IovaRange> mapped() const override { return turn("mapped"), map_.mapped(); }
  void hold() override { turn("hold"), map_.hold(), turn("held"); }
  void release() override { turn("release"), map_.release(); }
  Result<std::uint64_t> mark(const DirtyReport& report, DirtyMemory& to) const override {
    turn("mark");
    return map_.mark(report, to);
  }
  std::function<void(std::string_view where)> hook;

 private:
  void turn(const char* where) const {
    if (hook) hook(where);
  }
  IovaMap& map_;
};

/// A machine with an IOMMU and one device behind it; IOVAs and memory in pages.
class DmaBehindIommu : public testing::Test {
 protected:
  void set_up(const DirtyTrackingOptions& options = {}) {
    source = DmaDirtySource::create("device `a`", offers_of(device), view, options).value();
    endpoint.emplace(device, *memory, map, *source);
    iommu.add_endpoint(8, *endpoint);
    ASSERT_TRUE(iommu.attach(8, kDomain));
    ASSERT_TRUE(process.start());
  }
  Status change(std::vector<IommuRequest> requests) {
    iommu.change(kDomain, requests);
    for (auto& request : requests)
      HANDOVER_TRY(std::move(request.result));
    return {};
  }
  static IommuRequest mapping(std::uint64_t iova, std::uint64_t target, std::uint64_t pages = 1) {
    return {IommuChange::Kind::map,  Iova{iova * kPageSize}, pages * kPageSize,
            Gpa{target * kPageSize}, kDmaRead | kDmaWrite,   {}};
  }
  static IommuRequest unmapping(std::uint64_t iova, std::uint64_t pages = 1) {
    return {IommuChange::Kind::unmap, Iova{iova * kPageSize}, pages * kPageSize, {}, 0, {}};
  }
  bool write(std::uint64_t iova) {
    const auto at = device.write_page(Iova{iova * kPageSize});
    if (at) owed.insert(*at / kPageSize);
    return at.has_value();
  }
  /// A sync of all sources; the pages that it found, which are clean again.
  Pages sync(DirtySync which = DirtySync::round) {
    auto due = std::exchange(owed, {});
    const auto synced = source->sync(dirty, which);
    EXPECT_TRUE(synced) << synced.error().to_string();
    EXPECT_TRUE(process.sync(dirty, which));
    const auto found = take_found();
    for (const auto page : due)
      EXPECT_TRUE(found.contains(page)) << "page " << page << " was written and is lost";
    // What was written meanwhile and has been found is sent after it was written.
    for (const auto page : found)
      owed.erase(page);
    return found;
  }
  Pages take_found() {
    Pages found;
    auto& bitmap = dirty.of(*memory->blocks().front());
    for (std::uint64_t from = 0; const auto run = bitmap.take_run(from, kRam); from = run->first)
      for (std::uint64_t i = 0; i < run->count; ++i)
        found.insert(run->first + i);
    return found;
  }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam * kPageSize).value();
  DirtyMemory dirty{*memory};
  ProcessWrites process{*memory};
  test::LogDevice device{"a"};
  IovaMap map{48};
  InterruptedView view{map};
  VirtualIommu iommu{*memory, {}};
  std::unique_ptr<DmaDirtySource> source;
  std::optional<IommuEndpoint> endpoint;
  Pages owed;  // guest pages written, which a sync has not found yet
};

}  // namespace handover::vfio
