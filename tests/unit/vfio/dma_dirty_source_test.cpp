#include "handover/vfio/dma_dirty_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vfio/log_device.h"

namespace handover::vfio {
namespace {

using test::LogDevice;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr std::uint64_t kRam = 64;  // pages

/// A view whose ranges the test chooses.
class ChosenView final : public DmaView {
 public:
  std::vector<IovaRange> reach() const override { return all; }
  std::vector<IovaRange> mapped() const override { return now; }
  Result<std::uint64_t> mark(const DirtyReport& report, DirtyMemory&) const override {
    (report.page_size == 0 ? wholly : by_bits).push_back(report.range);
    return 0;
  }
  std::vector<IovaRange> all, now;
  mutable std::vector<IovaRange> wholly, by_bits;
};

/// One of the other kinds, as the kernel's back ends bring them.
class NamedTracker final : public DmaTracker {
 public:
  explicit NamedTracker(TrackerKind kind) : kind_(kind) {}
  TrackerKind kind() const override { return kind_; }
  Status start(std::span<const IovaRange>, std::span<const IovaRange>) override {
    if (fails) return fail(Errc::io, "it does not start");
    return {};
  }
  void stop() override {}
  bool covers(const IovaRange&) const override { return true; }
  Status report(const IovaRange&, const DirtyReportSink&) override { return {}; }
  void change(std::span<DmaChange>, const DirtyReportSink&) override {}
  bool fails = false;

 private:
  TrackerKind kind_;
};

class DmaDirtySourceTest : public testing::Test {
 protected:
  Result<std::unique_ptr<DmaDirtySource>> create(LogDevice& of, const DirtyTrackingOptions& options = {}) {
    return DmaDirtySource::create(fmt::format("device `{}`", of.id()), offers_of(of), view, options);
  }
  static std::string failure(const Status& status) {
    return status ? "it went well" : status.error().to_string();
  }
  std::uint64_t synced(DmaDirtySource& source, DirtySync which) {
    dirty.of(*memory->blocks().front()).clear();
    const auto done = source.sync(dirty, which);
    EXPECT_TRUE(done) << failure(done);
    return dirty.count();
  }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam * kPageSize).value();
  DirtyMemory dirty{*memory};
  PhysicalView view{*memory};
  LogDevice device{"a"};
  LogDevice plain{"p", false};
};

TEST_F(DmaDirtySourceTest, TheDevicesOwnLogIsTheBest) {
  const auto source = create(device).value();
  ASSERT_TRUE(source->start());
  EXPECT_EQ(source->choice().kind, TrackerKind::device);
  EXPECT_EQ(source->choice().reason, "the device logs its own DMA");
  EXPECT_EQ(source->name(), "device `a` (the device logs its own DMA)");
  device.log(Iova{5 * kPageSize});
  device.log(Iova{63 * kPageSize});
  EXPECT_EQ(synced(*source, DirtySync::round), 2u);
  EXPECT_TRUE(dirty.of(*memory->blocks().front()).test(63));
  EXPECT_EQ(synced(*source, DirtySync::last), 0u);
  EXPECT_THAT(device.starts, SizeIs(1));
}

TEST_F(DmaDirtySourceTest, WithoutALogAllPagesAreDirtyAndTheReasonSaysWhy) {
  const auto source = create(plain).value();
  ASSERT_TRUE(source->start());
  const auto tracking = source->tracking();
  ASSERT_TRUE(tracking);
  EXPECT_EQ(tracking->who, "device `p`");
  EXPECT_EQ(tracking->tracker, "all");
  EXPECT_TRUE(tracking->pre_copy);
  EXPECT_EQ(tracking->reason,
            "device `p` has no DMA log; iommufd is not in use; no type1 container is in use; all pages are "
            "taken as dirty");
  EXPECT_EQ(synced(*source, DirtySync::round), kRam);
  EXPECT_EQ(synced(*source, DirtySync::last), kRam);
}

TEST_F(DmaDirtySourceTest, OfTheOffersTheBestThatIsPossibleAndStartsIsTaken) {
  const auto offers = [&](bool iommufd_fails) {
    std::vector<TrackerOffer> all;
    all.push_back({TrackerKind::all, make_all_pages_tracker(plain), {}});
    all.push_back({TrackerKind::type1, std::make_unique<NamedTracker>(TrackerKind::type1), {}});
    auto iommufd = std::make_unique<NamedTracker>(TrackerKind::iommufd);
    iommufd->fails = iommufd_fails;
    all.push_back({TrackerKind::iommufd, std::move(iommufd), {}});
    all.push_back({TrackerKind::device, nullptr, "device `p` has no DMA log"});
    return all;
  };
  const auto best = DmaDirtySource::create("device `p`", offers(false), view, {}).value();
  ASSERT_TRUE(best->start());
  EXPECT_EQ(best->choice().kind, TrackerKind::iommufd);
  EXPECT_EQ(best->choice().reason, "device `p` has no DMA log; the IOMMU's page table has dirty bits");
  const auto next = DmaDirtySource::create("device `p`", offers(true), view, {}).value();
  EXPECT_EQ(next->choice().kind, TrackerKind::iommufd) << "it is not known yet";
  ASSERT_TRUE(next->start());
  EXPECT_EQ(next->choice().kind, TrackerKind::type1);
  EXPECT_EQ(next->choice().reason,
            "device `p` has no DMA log; it does not start; the container knows the pinned pages");
  const auto named =
      DmaDirtySource::create("device `p`", offers(true), view, {.tracker = TrackerKind::type1}).value();
  ASSERT_TRUE(named->start());
  EXPECT_EQ(named->choice().reason, "dirty-page-tracking=type1; the container knows the pinned pages");
}

TEST_F(DmaDirtySourceTest, ANamedTrackerThatIsNotPossibleIsRefusedWithTheReason) {
  for (const auto& [kind, why] : {std::pair{TrackerKind::device, "device `p` has no DMA log"},
                                  std::pair{TrackerKind::iommufd, "iommufd is not in use"},
                                  std::pair{TrackerKind::type1, "no type1 container is in use"}}) {
    const auto refused = create(plain, {.tracker = kind});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::unsupported);
    EXPECT_EQ(refused.error().to_string(),
              fmt::format("device `p`: dirty-page-tracking={} is not possible: {}; leave it out for the best "
                          "that there is",
                          to_string(kind), why));
  }
  EXPECT_THAT(DmaDirtySource::create("device `p`", {}, view, {}).error().to_string(),
              HasSubstr("device `p`: nothing tracks its DMA"));
  EXPECT_TRUE(create(device, {.tracker = TrackerKind::all})) << "the worst may be asked for";
}

TEST_F(DmaDirtySourceTest, TrackersHaveTheNamesThatUsersWrite) {
  for (const auto kind : kTrackerKinds)
    EXPECT_EQ(tracker_kind_from(to_string(kind)), kind);
  EXPECT_EQ(tracker_kind_from("iommufd"), TrackerKind::iommufd);
  EXPECT_FALSE(tracker_kind_from("best"));
  EXPECT_FALSE(tracker_kind_from(""));
}

TEST_F(DmaDirtySourceTest, ALogThatDoesNotStartGivesWayToAllPages) {
  device.fail_starts = SIZE_MAX;
  const auto source = create(device).value();
  ASSERT_TRUE(source->start());
  EXPECT_EQ(source->choice().kind, TrackerKind::all);
  EXPECT_EQ(source->choice().reason,
            "starting the DMA log of device `a`: the log does not work; iommufd is not in use; no type1 "
            "container is in use; all pages are taken as dirty");
  EXPECT_EQ(synced(*source, DirtySync::round), kRam);
  source->stop();
  device.fail_starts = 0;
  ASSERT_TRUE(source->start());
  EXPECT_EQ(source->choice().kind, TrackerKind::device) << "every migration tries anew";
  EXPECT_EQ(source->choice().reason, "the device logs its own DMA");
}

TEST_F(DmaDirtySourceTest, ALogThatTheUserNamedMustStart) {
  device.fail_starts = SIZE_MAX;
  const auto source = create(device, {.tracker = TrackerKind::device}).value();
  EXPECT_THAT(failure(source->start()),
              HasSubstr("starting the DMA log of device `a`: the log does not work"));
  source->stop();
  device.fail_starts = 0;
  EXPECT_TRUE(source->start());
}

TEST_F(DmaDirtySourceTest, ALostDeviceIsNotAskedAgainAndAgain) {
  device.fail_starts = SIZE_MAX;
  device.gone = true;
  const auto source = create(device).value();
  ASSERT_TRUE(source->start());
  EXPECT_THAT(device.starts, SizeIs(1));
}

TEST_F(DmaDirtySourceTest, RangesGetCoarserUntilTheyFit) {
  ChosenView chosen;
  chosen.all = {{Iova{0}, std::uint64_t{1} << 48}};
  for (std::uint64_t i = 0; i < 300; ++i)
    chosen.now.push_back({Iova{i * i * GiB}, GiB / 8});
  const auto started_for = [&]() -> std::vector<IovaRange> {
    const auto source = DmaDirtySource::create("device `a`", offers_of(device), chosen, {}).value();
    EXPECT_TRUE(source->start());
    const auto armed = device.armed;
    for (const auto& range : chosen.now)
      EXPECT_TRUE(armed.empty() || covered(armed, range));
    EXPECT_EQ(source->choice().kind == TrackerKind::device, !armed.empty());
    source->stop();
    return armed;
  };
  EXPECT_THAT(started_for(), SizeIs(1)) << "the whole reach";
  device.most_bytes = (std::uint64_t{1} << 48) - 1;
  const auto roomy = started_for();
  EXPECT_THAT(roomy, SizeIs(256));
  EXPECT_TRUE(covered(roomy, {Iova{299 * 299 * GiB}, GiB / 8 + GiB / 16})) << "room for more";
  // Room does not fit any more, what is mapped just so.
  device.most_bytes = 0;
  for (const auto& range : merge_ranges(chosen.now, 256))
    device.most_bytes += range.size;
  const auto tight = started_for();
  EXPECT_THAT(tight, SizeIs(256));
  EXPECT_FALSE(covered(tight, {Iova{299 * 299 * GiB}, GiB / 8 + GiB / 16}));
  device.most_bytes = (std::uint64_t{1} << 48) - 1;
  device.real_ranges = 1;
  EXPECT_THAT(started_for(), SizeIs(1)) << "it says that it takes more than it does";
  device.most_bytes = GiB;
  EXPECT_THAT(started_for(), SizeIs(0)) << "all pages are all that is left";
}

TEST_F(DmaDirtySourceTest, WithoutPreCopyWhatWasWrittenComesAllAtTheEnd) {
  for (auto* each : {&device, &plain}) {
    const auto source = create(*each, {.tracker = {}, .pre_copy = false}).value();
    ASSERT_TRUE(source->start());
    EXPECT_FALSE(source->choice().pre_copy);
    EXPECT_FALSE(source->tracking()->pre_copy);
    each->log(Iova{5 * kPageSize});
    EXPECT_EQ(synced(*source, DirtySync::round), 0u);
    each->log(Iova{6 * kPageSize});
    EXPECT_EQ(synced(*source, DirtySync::round), 0u);
    EXPECT_EQ(each->reports, 0u);
    EXPECT_EQ(synced(*source, DirtySync::last), each == &device ? 2 : kRam);
  }
}

TEST_F(DmaDirtySourceTest, AReportThatFailsOrIsShortFailsTheSyncAndNamesTheDevice) {
  const auto source = create(device).value();
  ASSERT_TRUE(source->start());
  device.fail_reports = true;
  EXPECT_EQ(failure(source->sync(dirty, DirtySync::round)),
            "reading the DMA log of device `a`: the log cannot be read");
  device.fail_reports = false;
  device.drop_bytes = 1;
  EXPECT_THAT(failure(source->sync(dirty, DirtySync::round)),
              AllOf(HasSubstr("the DMA log of device `a`"), HasSubstr("in only 7 bytes")));
  device.drop_bytes = 100;
  EXPECT_THAT(failure(source->sync(dirty, DirtySync::last)), HasSubstr("device `a`"));
  device.drop_bytes = 0;
  EXPECT_TRUE(source->sync(dirty, DirtySync::last));
}

TEST_F(DmaDirtySourceTest, StopCanBeCalledAgainAndBeforeAnyStart) {
  const auto source = create(device).value();
  source->stop();
  EXPECT_EQ(device.stops, 0u);
  ASSERT_TRUE(source->start());
  source->stop();
  source->stop();
  EXPECT_EQ(device.stops, 1u);
  EXPECT_TRUE(device.armed.empty());
  ASSERT_TRUE(source->start());
  EXPECT_FALSE(device.armed.empty());
  source->stop();
  EXPECT_EQ(device.stops, 2u);
}

TEST_F(DmaDirtySourceTest, WhatAnUnmappingKnewIsHandedOnWhileWritesAreTracked) {
  for (auto* each : {&device, &plain}) {
    const auto source = create(*each).value();
    std::vector<DirtyReport> reports;
    std::size_t bits = 0;
    const auto map_and_unmap = [&](std::uint64_t page) {
      reports.clear();
      bits = 0;
      DmaChange changes[2] = {{.kind = DmaChange::Kind::map, .mapping = {}, .result = {}},
                              {.kind = DmaChange::Kind::unmap, .mapping = {}, .result = {}}};
      for (auto& change : changes) {
        change.mapping.iova = Iova{page * kPageSize};
        change.mapping.size = 2 * kPageSize;
      }
      const DirtyReportSink dirt = [&](const DirtyReport& report) -> Status {
        reports.push_back(report);
        bits += report.bits.size();
        return {};
      };
      source->change(*each, std::span(changes).first(1), dirt);
      each->log(Iova{page * kPageSize});
      source->change(*each, std::span(changes).last(1), dirt);
      for (const auto& change : changes)
        EXPECT_TRUE(change.result);
      return reports.size();
    };
    EXPECT_EQ(map_and_unmap(3), 0u);
    EXPECT_EQ(each->asked_for_dirt, 0u) << "nobody wants to know yet";
    ASSERT_TRUE(source->start());
    EXPECT_EQ(map_and_unmap(3), 1u);
    EXPECT_EQ(bits, each == &device ? 1u : 0u) << "the log knows; of the other it is everything";
    EXPECT_EQ(reports[0].range.start, Iova{3 * kPageSize});
    EXPECT_EQ(reports[0].range.size, 2 * kPageSize);
    EXPECT_EQ(map_and_unmap(kRam * 2), 1u);
    EXPECT_EQ(reports[0].page_size, 0u) << "the log was not started for it: everything";
    source->stop();
    EXPECT_EQ(map_and_unmap(3), 0u);
    EXPECT_EQ(each->asked_for_dirt, 2u);
  }
}

// Two devices of one address space: only what both log is tracked.
TEST_F(DmaDirtySourceTest, WhatOneDeviceOfAnAddressSpaceDoesNotLogIsNotCovered) {
  LogDevice small{"b"};
  small.most_bytes = 8 * kPageSize;
  const auto tracker = make_device_log_tracker({&device, &small}, {});
  const IovaRange reach[] = {{Iova{0}, kRam * kPageSize}};
  const IovaRange mapped[] = {{Iova{0}, 4 * kPageSize}};
  ASSERT_TRUE(tracker->start(reach, mapped));
  EXPECT_TRUE(tracker->covers({Iova{0}, 6 * kPageSize})) << "with room to grow";
  EXPECT_FALSE(tracker->covers({Iova{0}, 7 * kPageSize}));
  device.log(Iova{kPageSize});
  device.log(Iova{9 * kPageSize});
  small.log(Iova{2 * kPageSize});
  std::vector<std::pair<std::uint64_t, unsigned>> said;  // size of the range, first bits
  const DirtyReportSink sink = [&](const DirtyReport& report) -> Status {
    said.emplace_back(report.range.size / kPageSize, std::to_integer<unsigned>(report.bits[0]));
    return {};
  };
  ASSERT_TRUE(tracker->report({Iova{0}, 10 * kPageSize}, sink));
  EXPECT_THAT(said, ElementsAre(std::pair{10ul, 2u}, std::pair{6ul, 4u}));
  small.most_bytes = 0;
  EXPECT_THAT(failure(tracker->start(reach, mapped)), HasSubstr("starting the DMA log of device `b`"));
  EXPECT_TRUE(device.armed.empty()) << "the other's is not left on";
  EXPECT_FALSE(tracker->covers(mapped[0]));
}

}  // namespace
}  // namespace handover::vfio
