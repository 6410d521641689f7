// Dirty tracking by a type1 container.  Runs inside the test VM: HANDOVER_EDU is a PCI device behind the VM's
// IOMMU, HANDOVER_MTTY names two mediated devices, which pin no memory.

#include "vfio_kernel/type1_tracker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "edu_registers.h"
#include "found_dirt.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio_kernel/open_device.h"
#include "vfio_kernel/device_place.h"
#include "vfio_kernel/ioctl.h"
#include "vm_devices.h"

namespace handover::vfio_kernel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using vfio::TrackerKind;

constexpr std::uint64_t kBase = 0x100000;
constexpr std::uint64_t kPiece = 64 * kPageSize;

vfio::DmaMapping mapping_of(const GuestMemory& memory, std::uint64_t iova, std::uint64_t size) {
  const auto& block = *memory.blocks()[0];
  return {.iova = Iova{iova}, .size = size, .fd = block.fd(), .host = block.data()};
}

vfio::DmaChange mapping(const GuestMemory& memory, std::uint64_t iova, std::uint64_t size) {
  return {.kind = vfio::DmaChange::Kind::map, .mapping = mapping_of(memory, iova, size)};
}

/// edu by its group, with what its device object hides: the container.
class Type1OnEdu : public testing::Test {
 protected:
  void SetUp() override {
    const auto addresses = vm_devices("HANDOVER_EDU");
    ASSERT_FALSE(addresses.empty());
    const auto place = find_device(addresses[0]);
    ASSERT_TRUE(place) << place.error().to_string();
    auto opened = open_by_group(*place);
    ASSERT_TRUE(opened) << opened.error().to_string();
    opened_ = std::move(*opened);
    container_ = dynamic_cast<Type1Container*>(opened_.space.get());
    ASSERT_NE(container_, nullptr);
    memory_ = GuestMemory::create(MiB).value();
  }
  std::uint64_t place_of(std::uint32_t region, std::uint64_t offset) const {
    uapi::RegionInfo info{};
    info.argsz = sizeof info;
    info.index = region;
    EXPECT_TRUE(call(opened_.device.get(), uapi::kDeviceGetRegionInfo, &info));
    return info.offset + offset;
  }
  void write_by_dma(std::uint64_t iova) const {
    const int fd = opened_.device.get();
    const EduRegisters edu(
        [&](auto region, auto offset, auto to) {
          return ::pread(fd, to.data(), to.size(), static_cast<off_t>(place_of(region, offset))) ==
                 static_cast<ssize_t>(to.size());
        },
        [&](auto region, auto offset, auto from) {
          return ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(place_of(region, offset))) ==
                 static_cast<ssize_t>(from.size());
        });
    edu.transfer(EduRegisters::kBuffer, iova, EduRegisters::kToRam);
  }

  OpenedDevice opened_;
  Type1Container* container_ = nullptr;
  std::unique_ptr<GuestMemory> memory_;
};

// Each call is told of all pages, whatever was written: so it is not offered, and `all` says the same for
// less.
TEST_F(Type1OnEdu, BehindTheHostsIommuEveryPageCountsAsWrittenAlways) {
  const auto log = type1_log(container_->fd());
  ASSERT_TRUE(log) << log.error();
  EXPECT_TRUE(log->all_pinned);
  EXPECT_EQ(log->page_size, kPageSize);
  // Three side by side, of which two fit into a question, and one behind a hole.
  const auto far = kBase + 5 * kPiece;
  for (const auto start : {kBase, kBase + kPiece, kBase + 2 * kPiece, far})
    ASSERT_TRUE(container_->map(mapping_of(*memory_, start, kPiece)));
  Type1Tracker tracker(*container_, {log->page_size, 2 * 64 / 8});
  const vfio::IovaRange all{Iova{0}, std::uint64_t{1} << 40};
  EXPECT_FALSE(tracker.covers(all));
  FoundDirt before;
  ASSERT_TRUE(tracker.report(all, before.sink()));
  EXPECT_THAT(before.ranges, IsEmpty());

  const auto started = tracker.start({}, {});
  ASSERT_TRUE(started) << started.error().to_string();
  EXPECT_TRUE(tracker.covers(all));
  auto every = pages_of(kBase, 3 * kPiece);
  every.merge(pages_of(far, kPiece));
  for (int round = 0; round < 3; ++round) {
    FoundDirt found;
    const auto reported = tracker.report(all, found.sink());
    ASSERT_TRUE(reported) << reported.error().to_string();
    EXPECT_THAT(found.ranges,
                ElementsAre(Pair(kBase, 2 * kPiece), Pair(kBase + 2 * kPiece, kPiece), Pair(far, kPiece)));
    EXPECT_EQ(found.pages, every) << "round " << round;
    EXPECT_EQ(found.unknown, 0u);
    if (round == 0) write_by_dma(far + 3 * kPageSize);
  }
  // A question may not cut a mapping, so it becomes one for all of it.
  FoundDirt part;
  ASSERT_TRUE(tracker.report({Iova{far + kPageSize}, kPageSize}, part.sink()));
  EXPECT_THAT(part.ranges, ElementsAre(Pair(far, kPiece)));
}

TEST_F(Type1OnEdu, AnUnmappingBringsItsDirtAndOneThatIsNotTrackedIsAllWritten) {
  const auto log = type1_log(container_->fd());
  ASSERT_TRUE(log) << log.error();
  Type1Tracker tracker(*container_, *log);
  const auto second = kBase + 3 * kPiece;
  ASSERT_TRUE(container_->map(mapping_of(*memory_, kBase, kPiece)));
  ASSERT_TRUE(container_->map(mapping_of(*memory_, second, kPiece)));
  ASSERT_TRUE(tracker.start({}, {}));

  FoundDirt dirt;
  std::vector changes = {unmapping(kBase, kPiece + kPageSize), mapping(*memory_, kBase, 2 * kPiece),
                         unmapping(second + kPageSize, kPiece), unmapping(kBase, 5 * kPiece)};
  tracker.change(changes, dirt.sink());
  EXPECT_TRUE(changes[0].result) << changes[0].result.error().to_string();
  EXPECT_TRUE(changes[1].result) << changes[1].result.error().to_string();
  ASSERT_FALSE(changes[2].result) << "it would cut a mapping";
  EXPECT_EQ(changes[2].result.error().code(), Errc::invalid_argument);
  EXPECT_TRUE(changes[3].result) << changes[3].result.error().to_string();
  EXPECT_THAT(dirt.ranges, ElementsAre(Pair(kBase, kPiece), Pair(kBase, 2 * kPiece), Pair(second, kPiece)));
  EXPECT_EQ(dirt.unknown, 0u);
  auto every = pages_of(kBase, 2 * kPiece);
  every.merge(pages_of(second, kPiece));
  EXPECT_EQ(dirt.pages, every);

  ASSERT_TRUE(container_->map(mapping_of(*memory_, kBase, kPiece)));
  tracker.stop();
  tracker.stop();
  EXPECT_FALSE(tracker.covers({Iova{kBase}, kPageSize}));
  FoundDirt after;
  tracker.change({changes.data(), 1}, after.sink());
  EXPECT_TRUE(changes[0].result);
  EXPECT_THAT(after.ranges, ElementsAre(Pair(kBase, kPiece)));
  EXPECT_EQ(after.unknown, 1u);
  ASSERT_TRUE(tracker.start({}, {})) << "and it can be started again";
}

std::unique_ptr<vfio::Device> open_mtty(Path path) {
  auto device = open_device({.id = "mtty", .where = vm_devices("HANDOVER_MTTY").at(0), .path = path});
  EXPECT_TRUE(device) << device.error().to_string();
  return device ? std::move(*device) : nullptr;
}

// mtty pins no page and writes none, so that nothing is ever dirty.
TEST(Type1OnMtty, WhatNoDriverPinnedOrWroteIsClean) {
  const auto device = open_mtty(Path::group);
  ASSERT_TRUE(device);
  auto offers = device->iommu_offers();
  ASSERT_EQ(offers.size(), 2u);
  EXPECT_EQ(offers[0].why_not, "iommufd is not in use");
  ASSERT_TRUE(offers[1].tracker) << offers[1].why_not;
  auto& tracker = *offers[1].tracker;
  EXPECT_EQ(tracker.kind(), TrackerKind::type1);

  const auto memory = GuestMemory::create(MiB).value();
  const auto far = kBase + 5 * kPiece;
  for (const auto start : {kBase, kBase + kPiece, far})
    ASSERT_TRUE(device->dma_map(mapping_of(*memory, start, kPiece)));
  for (int round = 0; round < 3; ++round) {
    const auto started = tracker.start({}, {});
    ASSERT_TRUE(started) << started.error().to_string();
    FoundDirt found;
    ASSERT_TRUE(tracker.report({Iova{0}, std::uint64_t{1} << 40}, found.sink()));
    EXPECT_THAT(found.ranges, ElementsAre(Pair(kBase, 2 * kPiece), Pair(far, kPiece)));
    std::vector changes = {unmapping(far, kPiece), mapping(*memory, far, kPiece)};
    tracker.change(changes, found.sink());
    for (const auto& change : changes)
      EXPECT_TRUE(change.result) << change.result.error().to_string();
    ASSERT_EQ(found.ranges.size(), 3u);
    EXPECT_THAT(found.pages, IsEmpty());
    if (round != 1) tracker.stop();  // also one that is on may be started
  }
}

TEST(Type1OnMtty, ItsContainerTracksAMachinesMemory) {
  const auto device = open_mtty(Path::group);
  ASSERT_TRUE(device);
  const auto memory = GuestMemory::create(MiB).value();
  ASSERT_TRUE(device->dma_map(mapping_of(*memory, 0, MiB)));
  vfio::PhysicalView view(*memory);
  const auto dirt = vfio::DmaDirtySource::create("device `mtty`", vfio::offers_of(*device), view,
                                                 {.tracker = TrackerKind::type1});
  ASSERT_TRUE(dirt) << dirt.error().to_string();
  ASSERT_TRUE((*dirt)->start());
  EXPECT_EQ((*dirt)->choice().kind, TrackerKind::type1);
  DirtyMemory found(*memory);
  ASSERT_TRUE((*dirt)->sync(found, DirtySync::last));
  EXPECT_EQ(found.count(), 0u);
  (*dirt)->stop();
}

TEST(IommufdOnMtty, ADriverThatEmulatesTheIommuHasNoDirtyBits) {
  const auto device = open_mtty(Path::cdev);
  ASSERT_TRUE(device);
  const auto offers = device->iommu_offers();
  ASSERT_EQ(offers.size(), 2u);
  EXPECT_EQ(offers[0].kind, TrackerKind::iommufd);
  EXPECT_FALSE(offers[0].tracker);
  EXPECT_THAT(offers[0].why_not, HasSubstr("emulates the IOMMU"));
  EXPECT_FALSE(offers[1].tracker);
  EXPECT_EQ(offers[1].why_not, "no type1 container is in use");
}

}  // namespace
}  // namespace handover::vfio_kernel
