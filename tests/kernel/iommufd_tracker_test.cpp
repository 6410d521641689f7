// Dirty tracking by the dirty bits of an IOMMU: the mock device and IOMMU that iommufd has for its own tests,
// since no IOMMU that QEMU emulates has dirty bits.  Runs inside the test VM.

#include "vfio_kernel/iommufd_tracker.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "found_dirt.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio/iova_map.h"
#include "iommufd_mock.h"
#include "vfio_kernel/type1_tracker.h"

namespace handover::vfio_kernel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using vfio::TrackerKind;

constexpr std::uint64_t kBase = mock::kApertureStart;
constexpr std::uint64_t kPiece = 64 * kPageSize;
constexpr vfio::IovaRange kAll{Iova{0}, std::uint64_t{1} << 40};

class IommufdMock : public testing::Test {
 protected:
  void SetUp() override {
    memory_ = GuestMemory::create(MiB).value();
    auto table = make_dirty_table(mock_.fd(), mock_.device(), mock_.ioas());
    ASSERT_TRUE(table.id) << table.why_not;
    table_ = *table.id;
    space_.emplace(UniqueFd(::fcntl(mock_.fd(), F_DUPFD_CLOEXEC, 0)), mock_.ioas(), std::move(table));
    auto offers = space_->offers();
    ASSERT_EQ(offers.size(), 2u);
    tracker_ = std::move(offers[0].tracker);
    ASSERT_TRUE(tracker_);
    EXPECT_EQ(tracker_->kind(), TrackerKind::iommufd);
  }
  vfio::DmaMapping mapping(std::uint64_t iova, std::uint64_t size) const {
    const auto& block = *memory_->blocks()[0];
    return {.iova = Iova{iova}, .size = size, .fd = block.fd(), .host = block.data()};
  }
  void map(std::uint64_t iova, std::uint64_t size) {
    const auto mapped = space_->map(mapping(iova, size));
    ASSERT_TRUE(mapped) << mapped.error().to_string();
  }
  void write(std::uint64_t iova) { EXPECT_TRUE(mock_.write(table_, iova)) << std::hex << iova; }
  FoundDirt report(const vfio::IovaRange& range = kAll) {
    FoundDirt found;
    const auto reported = tracker_->report(range, found.sink());
    EXPECT_TRUE(reported) << reported.error().to_string();
    return found;
  }

  MockIommufd mock_;
  std::uint32_t table_ = 0;
  std::unique_ptr<GuestMemory> memory_;
  std::optional<IommufdSpace> space_;
  std::unique_ptr<vfio::DmaTracker> tracker_;
};

TEST_F(IommufdMock, WrittenPagesAreReportedOnceAndNoOthers) {
  map(kBase, kPiece);
  EXPECT_FALSE(tracker_->covers(kAll));
  EXPECT_THAT(report().ranges, IsEmpty()) << "nothing is said of what is not tracked";
  ASSERT_TRUE(tracker_->start({}, {}));
  EXPECT_TRUE(tracker_->covers(kAll));
  EXPECT_THAT(report().pages, IsEmpty());
  // Of either half of a page of ours, and both.
  for (const auto at : {0ul, kPageSize + 2048, 63 * kPageSize, 63 * kPageSize + 2048})
    write(kBase + at);
  const auto found = report();
  EXPECT_THAT(found.ranges, ElementsAre(Pair(kBase, kPiece)));
  EXPECT_THAT(found.pages, ElementsAre(kBase, kBase + kPageSize, kBase + 63 * kPageSize));
  EXPECT_EQ(found.unknown, 0u);
  EXPECT_THAT(report().pages, IsEmpty()) << "they have been read";
  write(kBase + kPageSize);
  EXPECT_THAT(report().pages, ElementsAre(kBase + kPageSize));
}

// The kernel ends a report at the first hole, and calls that a success.
TEST_F(IommufdMock, WhatIsWrittenBehindAHoleIsNotMissed) {
  const auto near = kBase + kPiece;
  const auto far = kBase + 16 * MiB;
  map(near, kPiece);
  map(near + kPiece, kPageSize);
  map(far, 3 * kPageSize);
  ASSERT_TRUE(tracker_->start({}, {}));
  write(near + kPiece);
  write(far);
  write(far + 2 * kPageSize);
  EXPECT_FALSE(mock_.write(table_, near + kPiece + kPageSize));
  const auto found = report();
  EXPECT_THAT(found.ranges, ElementsAre(Pair(near, kPiece + kPageSize), Pair(far, 3 * kPageSize)));
  EXPECT_THAT(found.pages, ElementsAre(near + kPiece, far, far + 2 * kPageSize));

  // A range may begin in a hole, and end in a mapping, which it gets all of.
  write(near + kPageSize);
  write(far + kPageSize);
  write(far + 2 * kPageSize);
  EXPECT_THAT(report({Iova{near + 2 * kPiece}, far + kPageSize - (near + 2 * kPiece)}).pages,
              ElementsAre(far + kPageSize, far + 2 * kPageSize));
  EXPECT_THAT(report().pages, ElementsAre(near + kPageSize));
}

TEST_F(IommufdMock, AMappingThatIsMadeMeanwhileIsTrackedAndOneThatGoesBringsItsDirt) {
  map(kBase, kPiece);
  ASSERT_TRUE(tracker_->start({}, {}));
  write(kBase + 5 * kPageSize);
  EXPECT_THAT(report().pages, ElementsAre(kBase + 5 * kPageSize));
  const auto second = kBase + 2 * kPiece;
  std::vector made = {
      vfio::DmaChange{.kind = vfio::DmaChange::Kind::map, .mapping = mapping(second, kPiece)}};
  FoundDirt none;
  tracker_->change(made, none.sink());
  ASSERT_TRUE(made[0].result) << made[0].result.error().to_string();
  EXPECT_THAT(none.ranges, IsEmpty());

  write(kBase + 6 * kPageSize);
  write(second + 7 * kPageSize);
  FoundDirt dirt;
  std::vector gone = {unmapping(kBase + kPageSize, kPiece), unmapping(kBase, 3 * kPiece),
                      unmapping(kBase, 3 * kPiece)};
  tracker_->change(gone, dirt.sink());
  ASSERT_FALSE(gone[0].result) << "it would cut a mapping";
  EXPECT_EQ(gone[0].result.error().code(), Errc::invalid_argument);
  EXPECT_TRUE(gone[1].result) << gone[1].result.error().to_string();
  EXPECT_TRUE(gone[2].result) << "there is nothing any more";
  EXPECT_THAT(dirt.ranges, ElementsAre(Pair(kBase, kPiece), Pair(second, kPiece)));
  EXPECT_THAT(dirt.pages, ElementsAre(kBase + 6 * kPageSize, second + 7 * kPageSize));
  EXPECT_EQ(dirt.unknown, 0u);
  EXPECT_THAT(report().ranges, IsEmpty());
}

TEST_F(IommufdMock, ADeviceHasLostAMappingBeforeItsDirtIsTold) {
  map(kBase, kPiece);
  ASSERT_TRUE(tracker_->start({}, {}));
  write(kBase);
  std::vector gone = {unmapping(kBase, kPiece)};
  std::vector<bool> there;
  tracker_->change(gone, [&](const vfio::DirtyReport&) -> Status {
    there.push_back(mock_.write(table_, kBase));
    return {};
  });
  EXPECT_TRUE(gone[0].result);
  EXPECT_THAT(there, ElementsAre(false));
}

TEST_F(IommufdMock, StartingAgainForgetsWhatWasWrittenBefore) {
  map(kBase, kPiece);
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(tracker_->start({}, {}));
    EXPECT_THAT(report().pages, IsEmpty());
    write(kBase + kPageSize);
    if (round == 1) continue;  // also one that is on may be started
    tracker_->stop();
    tracker_->stop();
    EXPECT_FALSE(tracker_->covers(kAll));
  }
}

TEST_F(IommufdMock, WhatWasWrittenWhileNobodyTrackedIsAll) {
  map(kBase, kPiece);
  std::vector gone = {unmapping(kBase, kPiece)};
  FoundDirt before;
  tracker_->change(gone, before.sink());
  EXPECT_TRUE(gone[0].result);
  EXPECT_EQ(before.unknown, 1u);
  EXPECT_EQ(before.pages, pages_of(kBase, kPiece));
}

TEST_F(IommufdMock, WhatCannotBeReadBeforeAMappingGoesIsAllWritten) {
  map(kBase, kPiece);
  ASSERT_TRUE(tracker_->start({}, {}));
  uapi::IommufdDestroy destroy{sizeof destroy, table_};
  ASSERT_TRUE(call(mock_.fd(), uapi::kIommufdDestroy, &destroy));
  FoundDirt found;
  const auto reported = tracker_->report(kAll, found.sink());
  ASSERT_FALSE(reported) << "a report that fails is an error";
  EXPECT_THAT(reported.error().to_string(), HasSubstr("iommufd"));
  std::vector gone = {unmapping(kBase, kPiece)};
  tracker_->change(gone, found.sink());
  EXPECT_TRUE(gone[0].result) << gone[0].result.error().to_string();
  EXPECT_EQ(found.unknown, 1u);
  EXPECT_EQ(found.pages, pages_of(kBase, kPiece));
}

// One that is asked for while a mapping goes would end at the hole, and miss what was written behind.
TEST_F(IommufdMock, AReportWhileMappingsComeAndGoMissesNothing) {
  const auto middle = kBase + kPiece;
  const auto behind = middle + kPiece;
  for (const auto start : {kBase, middle, behind})
    map(start, kPiece);
  ASSERT_TRUE(tracker_->start({}, {}));
  constexpr std::size_t kRounds = 150;
  std::atomic<std::size_t> seen_when_it_went = 0;
  std::atomic<bool> ended = false;
  std::thread changes([&] {
    for (std::size_t round = 0; round < kRounds; ++round) {
      write(middle + round % 64 * kPageSize);
      std::vector both = {unmapping(middle, kPiece), vfio::DmaChange{.kind = vfio::DmaChange::Kind::map,
                                                                     .mapping = mapping(middle, kPiece)}};
      FoundDirt dirt;
      tracker_->change(both, dirt.sink());
      for (const auto& change : both)
        EXPECT_TRUE(change.result) << change.result.error().to_string();
      seen_when_it_went += dirt.pages.size();
    }
    ended = true;
  });
  std::size_t seen_by_report = 0;
  for (std::size_t round = 0; !ended; ++round) {
    const auto before_it = kBase + round % 64 * kPageSize;
    const auto behind_it = behind + round % 64 * kPageSize;
    write(before_it);
    write(behind_it);
    const auto found = report();
    EXPECT_TRUE(found.pages.contains(before_it));
    EXPECT_TRUE(found.pages.contains(behind_it));
    seen_by_report += found.pages.size() - 2;
  }
  changes.join();
  EXPECT_THAT(report().pages, IsEmpty()) << "of the last ones";
  EXPECT_EQ(seen_by_report + seen_when_it_went, kRounds) << "each write is seen once";
}

TEST_F(IommufdMock, ItIsTheBestTrackerOfADeviceAndMarksTheGuestsPages) {
  const auto far = kBase + 512 * MiB;
  map(kBase, kPiece);
  map(far, kPiece);
  // The other way round in the guest.
  vfio::IovaMap view(40);
  ASSERT_TRUE(view.add({Iova{kBase}, kPiece, Gpa{kPiece}, vfio::kDmaRead | vfio::kDmaWrite}));
  ASSERT_TRUE(view.add({Iova{far}, kPiece, Gpa{0}, vfio::kDmaRead | vfio::kDmaWrite}));
  const auto source = vfio::DmaDirtySource::create("device `mock`", space_->offers(), view, {});
  ASSERT_TRUE(source) << source.error().to_string();
  EXPECT_EQ((*source)->choice().kind, TrackerKind::iommufd);
  EXPECT_EQ((*source)->choice().reason, "the IOMMU's page table has dirty bits");
  ASSERT_TRUE((*source)->start());
  write(kBase + 3 * kPageSize);
  write(far + 9 * kPageSize);
  DirtyMemory found(*memory_);
  ASSERT_TRUE((*source)->sync(found, DirtySync::round));
  EXPECT_EQ(found.count(), 2u);
  const auto& bits = found.of(*memory_->blocks()[0]);
  EXPECT_TRUE(bits.test(kPiece / kPageSize + 3));
  EXPECT_TRUE(bits.test(9));
  ASSERT_TRUE((*source)->sync(found, DirtySync::last));
  EXPECT_EQ(found.count(), 2u);
  (*source)->stop();
}

TEST(IommufdWithoutDirtyBits, TheReasonIsOffered) {
  const MockIommufd plain(mock::kDeviceNoDirty);
  auto table = make_dirty_table(plain.fd(), plain.device(), plain.ioas());
  EXPECT_FALSE(table.id);
  EXPECT_EQ(table.why_not, "the host's IOMMU has no dirty bits");
  IommufdSpace space(UniqueFd(::fcntl(plain.fd(), F_DUPFD_CLOEXEC, 0)), plain.ioas(), std::move(table));
  const auto offers = space.offers();
  ASSERT_EQ(offers.size(), 2u);
  EXPECT_FALSE(offers[0].tracker);
  EXPECT_EQ(offers[0].why_not, "the host's IOMMU has no dirty bits");
}

// What /dev/vfio/vfio is on a kernel that was built so.
TEST(IommufdAsContainer, ItHasNoDirtyTrackingOfType1s) {
  const MockIommufd iommufd;
  struct {
    std::uint32_t size = 12;
    std::uint32_t ioas;
    std::uint16_t op = 1;
    std::uint16_t reserved = 0;
  } set{.ioas = iommufd.ioas()};
  ASSERT_TRUE(call(iommufd.fd(), uapi::request(0x88), &set));  // IOMMU_VFIO_IOAS: used by what follows
  Type1Container container(UniqueFd(::fcntl(iommufd.fd(), F_DUPFD_CLOEXEC, 0)));
  const auto offers = container.offers();
  ASSERT_EQ(offers.size(), 2u);
  EXPECT_FALSE(offers[1].tracker);
  EXPECT_THAT(offers[1].why_not, HasSubstr("has no dirty tracking"));
}

}  // namespace
}  // namespace handover::vfio_kernel
