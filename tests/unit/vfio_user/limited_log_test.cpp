// A device behind a guest's IOMMU whose log has the limits of hardware: client library, dirty source and
// IOMMU against a real server.

#include <random>
#include <set>

#include "handover/vfio/iommu_endpoint.h"
#include "handover/vfio_user/client.h"
#include "unit/memory/random_seed.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using vfio::IommuRequest;
using vfio::TrackerKind;

using Pages = std::set<std::uint64_t>;

class LimitedLog : public ServedToy {
 protected:
  static constexpr std::uint64_t kRam = 64 * MiB;
  static constexpr std::uint32_t kEndpoint = 8, kDomain = 1;
  static constexpr std::uint64_t kPiece = 1 * MiB;

  void serve_with(std::uint32_t ranges, std::uint64_t bytes) {
    ServerOptions options;
    options.max_dma_log_ranges = ranges;
    options.max_dma_log_bytes = bytes;
    serve(7, std::move(options));
    auto device = vfio_user::connect({"toy0", path_, kPatience}, *memory_, {});
    ASSERT_TRUE(device) << device.error().to_string();
    device_ = std::move(*device);
    auto dirt = vfio::DmaDirtySource::create("device `toy0`", vfio::offers_of(*device_), map_, {});
    ASSERT_TRUE(dirt) << dirt.error().to_string();
    dirt_ = std::move(*dirt);
    endpoint_.emplace(*device_, *memory_, map_, *dirt_);
    iommu_.add_endpoint(kEndpoint, *endpoint_);
    ASSERT_TRUE(iommu_.attach(kEndpoint, kDomain));
  }
  void TearDown() override {
    if (endpoint_) iommu_.remove_endpoint(kEndpoint);
    endpoint_.reset();
    dirt_.reset();
    device_.reset();
    ServedToy::TearDown();
  }

  Status ask(IommuRequest request) {
    iommu_.change(kDomain, {&request, 1});
    return std::move(request.result);
  }
  /// The n-th piece of RAM at an address of the device's.
  void map(std::uint64_t iova, std::uint64_t piece) {
    auto mapped = ask({.kind = vfio::IommuChange::Kind::map,
                       .iova = Iova{iova},
                       .size = kPiece,
                       .target = Gpa{piece * kPiece},
                       .flags = vfio::kDmaRead | vfio::kDmaWrite,
                       .result = {}});
    ASSERT_TRUE(mapped) << mapped.error().to_string();
    pieces_[iova] = piece;
  }
  void unmap(std::uint64_t iova) {
    auto gone = ask({.kind = vfio::IommuChange::Kind::unmap,
                     .iova = Iova{iova},
                     .size = kPiece,
                     .target = {},
                     .result = {}});
    ASSERT_TRUE(gone) << gone.error().to_string();
    pieces_.erase(iova);
  }
  /// The device writes into some pages of every mapping.
  void write_everywhere() {
    for (const auto& [iova, piece] : pieces_)
      for (int i = 0; i < 8; ++i) {
        const auto page = random_() % (kPiece / kPageSize);
        const std::byte value[]{static_cast<std::byte>(random_())};
        ASSERT_TRUE(toy_->bus().dma_write(Iova{iova + page * kPageSize + random_() % kPageSize}, value));
        written_.insert(piece * (kPiece / kPageSize) + page);
      }
  }
  void sync(DirtySync which = DirtySync::round) {
    auto synced = dirt_->sync(dirty_, which);
    ASSERT_TRUE(synced) << synced.error().to_string();
    synced = process_.sync(dirty_, which);
    ASSERT_TRUE(synced) << synced.error().to_string();
  }
  /// The pages that are marked, and not any more.
  Pages take() {
    Pages pages;
    auto& bitmap = dirty_.of(*memory_->blocks()[0]);
    for (std::uint64_t from = 0; const auto run = bitmap.take_run(from, 256); from = run->first + run->count)
      for (std::uint64_t i = 0; i < run->count; ++i)
        pages.insert(run->first + i);
    return pages;
  }
  /// Every page that was written since the last time is marked.
  void expect_nothing_lost(const char* when) {
    const auto marked = take();
    for (const auto page : std::exchange(written_, {}))
      EXPECT_TRUE(marked.contains(page)) << when << ": page " << page << " was written and is not marked";
    marked_ = marked.size();
  }

  const std::uint64_t seed_ = test::random_seed();
  std::mt19937_64 random_{seed_};
  std::unique_ptr<GuestMemory> memory_ = std::move(*GuestMemory::create(kRam));
  vfio::IovaMap map_{48};
  vfio::VirtualIommu iommu_{*memory_, {}};
  DirtyMemory dirty_{*memory_};
  ProcessWrites process_{*memory_};
  std::unique_ptr<vfio::Device> device_;
  std::unique_ptr<vfio::DmaDirtySource> dirt_;
  std::optional<vfio::IommuEndpoint> endpoint_;
  std::map<std::uint64_t, std::uint64_t> pieces_;  // by IOVA
  Pages written_;
  std::size_t marked_ = 0;
};

// A3: the log follows the mappings to where it was not, and of what it did not cover everything counts.
TEST_F(LimitedLog, OfTwoRangesLosesNothingWhenMappingsComeFarApart) {
  serve_with(2, 1 * GiB);
  map(0x1'0000'0000, 0);
  map(0x7f00'0000'0000, 1);
  ASSERT_TRUE(process_.start());
  ASSERT_TRUE(dirt_->start());
  ASSERT_EQ(dirt_->choice().kind, TrackerKind::device) << dirt_->choice().reason;
  write_everywhere();
  sync();
  const auto exact = written_.size();
  expect_nothing_lost("in the two ranges");
  EXPECT_EQ(marked_, exact) << "the log knows each page";

  // Elsewhere: not covered until the log is started again, which the next sync does.
  unmap(0x7f00'0000'0000);
  map(0x2000'0000'0000, 2);
  write_everywhere();
  sync();
  expect_nothing_lost("before the log is armed again");
  EXPECT_GE(marked_, kPiece / kPageSize) << "all of what was not covered";
  write_everywhere();
  sync();
  const auto again = written_.size();
  expect_nothing_lost("after it was armed again");
  EXPECT_EQ(marked_, again);
  EXPECT_EQ(dirt_->choice().kind, TrackerKind::device);

  // What goes while nobody has looked is marked as it goes, covered or not.
  map(0x3000'0000'0000, 3);
  write_everywhere();
  unmap(0x3000'0000'0000);
  unmap(0x2000'0000'0000);
  sync(DirtySync::last);
  expect_nothing_lost("of mappings that are gone");
  dirt_->stop();
  process_.stop();
}

TEST_F(LimitedLog, OfTwoRangesCoversThreePlacesThatAreFarApartIfItMayBeLarge) {
  serve_with(2, 0);
  for (std::uint64_t i = 0; i < 3; ++i)
    map((i + 1) << 40, i);
  ASSERT_TRUE(process_.start());
  ASSERT_TRUE(dirt_->start());
  EXPECT_EQ(dirt_->choice().kind, TrackerKind::device) << dirt_->choice().reason;
  write_everywhere();
  sync();
  const auto exact = written_.size();
  expect_nothing_lost("in three places");
  EXPECT_EQ(marked_, exact);
  dirt_->stop();
  process_.stop();
}

// Three places of 128 MiB (IovaMap::kChunk) fit into two ranges if two of them are neighbours.
TEST_F(LimitedLog, ClosesOnlyTheGapsThatItMust) {
  serve_with(2, 1 * GiB);
  map(0x1'0000'0000, 0);
  map(0x1'1000'0000, 1);
  map(0x7f00'0000'0000, 2);
  ASSERT_TRUE(process_.start());
  ASSERT_TRUE(dirt_->start());
  EXPECT_EQ(dirt_->choice().kind, TrackerKind::device) << dirt_->choice().reason;
  write_everywhere();
  sync();
  expect_nothing_lost("with a gap closed");
  dirt_->stop();
  process_.stop();
}

TEST_F(LimitedLog, ThatIsTooSmallIsLeftAndEverythingCounts) {
  serve_with(2, 200 * MiB);
  map(0x1'0000'0000, 0);
  map(0x7f00'0000'0000, 1);
  ASSERT_TRUE(process_.start());
  ASSERT_TRUE(dirt_->start());
  EXPECT_EQ(dirt_->choice().kind, TrackerKind::all) << "2 times 128 MiB do not fit";
  EXPECT_NE(dirt_->choice().reason.find("toy0"), std::string::npos) << dirt_->choice().reason;
  write_everywhere();
  sync();
  expect_nothing_lost("without a log");
  EXPECT_EQ(marked_, 2 * kPiece / kPageSize);
  dirt_->stop();
  process_.stop();
}

TEST_F(LimitedLog, LosesNothingUnderRandomChangesOfMappings) {
  // Enough for both neighbourhoods, not for what is between them: whichever comes late is not covered yet.
  serve_with(2, 128 * GiB);
  ASSERT_TRUE(process_.start());
  ASSERT_TRUE(dirt_->start());
  // Few enough places for IOVAs to be used again, and too many for a range each.
  constexpr std::uint64_t kPlaces[] = {0x1'0000'0000,    0x1'0010'0000,    0x1'4000'0000,
                                       0x9'0000'0000,    0x2000'0000'0000, 0x2000'0800'0000,
                                       0x2003'0000'0000, 0x2003'0010'0000};
  for (int round = 0; round < 60 && !HasFailure(); ++round) {
    for (int change = 0; change < 4; ++change) {
      const auto place = kPlaces[random_() % std::size(kPlaces)];
      if (pieces_.contains(place))
        unmap(place);
      else
        map(place, random_() % (kRam / kPiece));
      write_everywhere();
    }
    sync();
    expect_nothing_lost("in a round");
  }
  write_everywhere();
  sync(DirtySync::last);
  expect_nothing_lost("at the end");
  EXPECT_EQ(dirt_->choice().kind, TrackerKind::device) << dirt_->choice().reason;
  dirt_->stop();
  process_.stop();
  EXPECT_FALSE(HasFailure()) << "seed " << seed_;
}

}  // namespace
}  // namespace handover::vfio_user
