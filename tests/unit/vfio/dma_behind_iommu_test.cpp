// Dirty tracking behind a guest's IOMMU: nothing that a device wrote is lost, however mappings come and go.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "unit/memory/random_seed.h"
#include "unit/vfio/dma_behind_iommu.h"

namespace handover::vfio {
namespace {

using test::LogDevice;

TEST_F(DmaBehindIommu, ALogOfAllAddressesSaysExactlyWhatWasWritten) {
  set_up();
  ASSERT_TRUE(change({mapping(1000, 5, 4)}));
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(change({mapping(7 * kChunk, 100, 4)}));
  write(1001);
  write(7 * kChunk + 3);
  EXPECT_EQ(sync(), (Pages{6, 103}));
  EXPECT_EQ(device.starts.size(), 1u);
}

TEST_F(DmaBehindIommu, AMappingThatTheLogWasNotStartedForIsMarkedWhollyUntilItIs) {
  set_up();
  device.most_bytes = 64 * GiB;
  ASSERT_TRUE(change({mapping(0, 5, 4)}));
  ASSERT_TRUE(source->start());
  const auto before = device.starts.size();
  ASSERT_TRUE(change({mapping(7 * kChunk, 100, 4)}));
  ASSERT_TRUE(write(1));
  EXPECT_EQ(sync(), (Pages{5, 6, 7, 8, 100, 101, 102, 103})) << "also while the log was started again";
  EXPECT_GT(device.starts.size(), before);
  ASSERT_TRUE(write(7 * kChunk + 3));
  EXPECT_EQ(sync(), (Pages{103})) << "now it is in the log";
  const auto after = device.starts.size();
  ASSERT_TRUE(write(2));
  EXPECT_EQ(sync(DirtySync::last), (Pages{7}));
  EXPECT_EQ(device.starts.size(), after) << "and needs no other start";
}

TEST_F(DmaBehindIommu, TheLastSyncDoesNotStartTheLogAgain) {
  set_up();
  device.most_bytes = 64 * GiB;
  ASSERT_TRUE(change({mapping(0, 5)}));
  ASSERT_TRUE(source->start());
  const auto before = device.starts.size();
  ASSERT_TRUE(change({mapping(7 * kChunk, 100, 2)}));
  ASSERT_TRUE(write(0));
  EXPECT_EQ(sync(DirtySync::last), (Pages{5, 100, 101}));
  EXPECT_EQ(device.starts.size(), before);
}

TEST_F(DmaBehindIommu, WhatWasWrittenInAMappingThatGoesIsFound) {
  set_up();
  ASSERT_TRUE(change({mapping(10, 5, 4), mapping(20, 50)}));
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(write(12));
  ASSERT_TRUE(change({unmapping(10, 4), mapping(12, 60)}));
  EXPECT_EQ(sync(), (Pages{7}));
  ASSERT_TRUE(write(12));
  ASSERT_TRUE(change({unmapping(0, 100)}));
  EXPECT_EQ(sync(), (Pages{60}));
}

TEST_F(DmaBehindIommu, WithoutPreCopyNothingIsLostEither) {
  device.most_bytes = 64 * GiB;
  set_up({.tracker = {}, .pre_copy = false});
  ASSERT_TRUE(change({mapping(10, 5)}));
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(change({mapping(7 * kChunk, 100)}));
  ASSERT_TRUE(write(10));
  ASSERT_TRUE(write(7 * kChunk));
  EXPECT_TRUE(source->sync(dirty, DirtySync::round));
  EXPECT_EQ(dirty.count(), 0u);
  EXPECT_EQ(sync(DirtySync::last), (Pages{5, 100}));
}

// What was written before the log was on again is in no log; the mapping is gone when all that is mapped is
// marked in its stead.
TEST_F(DmaBehindIommu, AMappingThatGoesJustAfterTheLogWasStartedAgainIsNotLost) {
  set_up();
  device.most_bytes = 64 * GiB;
  ASSERT_TRUE(change({mapping(0, 5), mapping(9, 50), mapping(7 * kChunk, 100)}));
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(change({mapping(20 * kChunk, 200)}));  // which the log must be started again for
  bool off = false, gone = false;
  device.hook = [&](std::string_view where) {
    if (where != "stopped" || std::exchange(off, true)) return;
    ASSERT_TRUE(write(7 * kChunk));
    ASSERT_TRUE(write(9));
  };
  view.hook = [&](std::string_view where) {
    if (where != "mapped" || gone || device.armed.empty() || !off) return;
    gone = true;
    ASSERT_TRUE(change({unmapping(7 * kChunk), unmapping(9)}));
  };
  sync();
  EXPECT_TRUE(gone);
  sync();
  EXPECT_EQ(owed, Pages{}) << "written while the log was off";
}

TEST_F(DmaBehindIommu, WhatTheDeviceRefusesDoesNotHideWhatItHas) {
  set_up();
  device.refuse = [](const DmaMapping& wanted) { return wanted.offset == 66 * kPageSize; };
  ASSERT_TRUE(source->start());
  std::vector<IommuRequest> requests{mapping(3, 66), unmapping(3), mapping(3, 5), mapping(4, 66)};
  iommu.change(kDomain, requests);
  EXPECT_FALSE(requests[0].result);
  EXPECT_TRUE(requests[2].result);
  EXPECT_FALSE(requests[3].result);
  ASSERT_TRUE(write(3));
  EXPECT_EQ(sync(), (Pages{5}));
}

// What is taken back from one device, because another refused it, was never the other's.
TEST_F(DmaBehindIommu, WhatAnotherDeviceRefusesDoesNotHideWhatItHas) {
  LogDevice other{"b"};
  IovaMap other_map{48};
  const auto other_source =
      DmaDirtySource::create("device `b`", offers_of(other), other_map, DirtyTrackingOptions{}).value();
  IommuEndpoint other_endpoint{other, *memory, other_map, *other_source};
  set_up();
  iommu.add_endpoint(16, other_endpoint);
  ASSERT_TRUE(iommu.attach(16, kDomain));
  ASSERT_TRUE(source->start());
  ASSERT_TRUE(other_source->start());
  ASSERT_TRUE(change({mapping(3, 5)}));
  for (auto* refuser : {&device, &other}) {
    refuser->refuse = [](const DmaMapping&) { return true; };
    EXPECT_FALSE(change({mapping(4, 66)}));
    refuser->refuse = nullptr;
    EXPECT_EQ(device.mappings.size(), 1u);
    EXPECT_EQ(other.mappings.size(), 1u);
    EXPECT_EQ(map.mapped().size(), 1u);
    EXPECT_EQ(other_map.mapped().size(), 1u);
  }
  ASSERT_TRUE(write(3));
  EXPECT_EQ(sync(), (Pages{5}));
  ASSERT_TRUE(other.write_page(Iova{3 * kPageSize}));
  ASSERT_TRUE(other_source->sync(dirty, DirtySync::round));
  EXPECT_EQ(dirty.count(), 1u);
  ASSERT_TRUE(change({unmapping(3)}));
  EXPECT_TRUE(map.mapped().empty());
  EXPECT_TRUE(other_map.mapped().empty());
}

struct RandomCase {
  const char* name;
  std::uint64_t most_bytes;
  std::size_t most_ranges;
  bool interrupted;
  bool fails;  // the log, now and then
};
void PrintTo(const RandomCase& random_case, std::ostream* out) {
  *out << random_case.name;
}

class RandomDmaBehindIommu : public DmaBehindIommu, public testing::WithParamInterface<RandomCase> {
 protected:
  std::uint64_t number(std::uint64_t below) { return random_() % below; }
  std::uint64_t iova() { return number(24) * 3 * kChunk + number(6); }

  // What a guest and its device do.
  void step() {
    if (number(3) != 0) {
      for (int i = 0; i < 8; ++i)
        write(iova());
      return;
    }
    std::vector<IommuRequest> requests;
    for (auto left = 1 + number(4); left > 0; --left) {
      const auto pages = 1 + number(4);
      if (number(5) < 2)
        requests.push_back(unmapping(iova(), 8 * pages));
      else
        requests.push_back(mapping(iova(), number(kRam - pages), pages));
    }
    // Some overlap, or would be cut, or the device has no room: that is the guest's affair.
    (void)change(std::move(requests));
    ASSERT_EQ(iommu.mappings(), device.mappings.size());
    ASSERT_EQ(iommu.mappings(), map.size());
  }
  void interrupt() {
    if (inside_ || number(2) != 0) return;
    inside_ = true;
    for (auto left = number(12); left > 0; --left)
      step();
    inside_ = false;
  }

  std::mt19937_64 random_{test::random_seed()};
  bool inside_ = false;
};

TEST_P(RandomDmaBehindIommu, NothingThatWasWrittenIsLost) {
  const auto& random_case = GetParam();
  set_up();
  device.refuse = [](const DmaMapping& wanted) { return wanted.offset / kPageSize % 16 == 1; };
  device.most_bytes = random_case.most_bytes;
  device.most_ranges = random_case.most_ranges;
  if (random_case.interrupted) {
    device.hook = [this](const char*) { interrupt(); };
    view.hook = [this](std::string_view) { interrupt(); };
  }
  int by_log = 0, exact = 0;
  for (int run = 0; run < 40 && !HasFailure(); ++run) {
    for (int i = 0; i < 5; ++i)
      step();
    ASSERT_TRUE(source->start());
    owed.clear();  // before a migration all pages are to be sent
    sync();
    for (int round = 0; round < 25 && !HasFailure(); ++round) {
      for (auto left = number(6); left > 0; --left)
        step();
      if (random_case.fails && number(10) == 0) device.fail_starts = 1 + number(5);
      sync();
      if (source->choice().kind == TrackerKind::device) ++by_log;
      if (random_case.interrupted) continue;
      // Nothing has changed since the log was started for all that is mapped: it says what there is, and no
      // more.
      for (int i = 0; i < 8; ++i)
        write(iova());
      const auto due = owed;
      const auto found = sync();
      if (source->choice().kind != TrackerKind::device) continue;
      ASSERT_EQ(found, due);
      exact += due.empty() ? 0 : 1;
    }
    device.fail_starts = 0;
    device.hook = nullptr;
    view.hook = nullptr;
    sync(DirtySync::last);
    EXPECT_EQ(owed, Pages{});
    source->stop();
    if (random_case.interrupted) {
      device.hook = [this](const char*) { interrupt(); };
      view.hook = [this](std::string_view) { interrupt(); };
    }
  }
  EXPECT_GT(by_log, 20);
  if (!random_case.interrupted) {
    EXPECT_GT(exact, 20);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RandomDmaBehindIommu,
                         testing::Values(RandomCase{"AllAddresses", ~std::uint64_t{0}, 256, false, false},
                                         RandomCase{"SomeAddresses", 64 * GiB, 256, false, false},
                                         RandomCase{"TwoRanges", 64 * GiB, 2, false, false},
                                         RandomCase{"Failing", 64 * GiB, 256, false, true},
                                         RandomCase{"AllAddressesInterrupted", ~std::uint64_t{0}, 256, true,
                                                    false},
                                         RandomCase{"SomeAddressesInterrupted", 64 * GiB, 3, true, false},
                                         RandomCase{"FailingInterrupted", 64 * GiB, 256, true, true}),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace handover::vfio
