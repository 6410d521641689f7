// A device that writes as fast as it can through the whole of many short migrations: nothing that it wrote is
// missing, with and without an IOMMU for the guest.

#include <array>
#include <chrono>

#include "unit/memory/random_seed.h"
#include "unit/vfio_user/dirty_rig.h"

namespace handover::vfio_user {
namespace {

using vfio::DirtyTrackingOptions;
using vfio::IommuChange;
using vfio::IommuRequest;

void map_all(DirtyRig& rig) {
  const auto& block = *rig.memory->blocks()[0];
  ASSERT_TRUE(rig.device->dma_map({.iova = Iova{0}, .size = block.size(), .fd = block.fd()}));
}

WritingDevice::Place anywhere(std::mt19937_64& random, std::uint64_t ram) {
  const auto size = 8 + random() % WritingDevice::kMost / 8 * 8;
  return {Iova{random() % (ram - size)}, std::min<std::size_t>(size, WritingDevice::kMost)};
}

class EveryTracker : public testing::TestWithParam<DirtyTrackingOptions> {};

TEST_P(EveryTracker, LosesNothingOfADeviceThatNeverRests) {
  const auto seed = test::random_seed();
  std::mt19937_64 random(seed);
  DirtyRig rig([](std::mt19937_64& any) { return anywhere(any, MiB); }, seed);
  map_all(rig);
  const auto before = rig.model.faults();
  vfio::PhysicalView view(*rig.memory);
  auto dirt = vfio::DmaDirtySource::create("device `writer`", vfio::offers_of(*rig.device), view, GetParam());
  ASSERT_TRUE(dirt) << dirt.error().to_string();
  for (int i = 0; i < kMoves && !HasFatalFailure(); ++i)
    rig.move(**dirt, random);
  EXPECT_GT(rig.model.writes(), 0u);
  EXPECT_LE(rig.model.faults(), before + 1) << "one may have been under way when memory was mapped";
  std::cout << rig.model.writes() << " writes\n";
}

INSTANTIATE_TEST_SUITE_P(
    Dirty, EveryTracker,
    testing::Values(DirtyTrackingOptions{}, DirtyTrackingOptions{.tracker = vfio::TrackerKind::all},
                    DirtyTrackingOptions{.tracker = {}, .pre_copy = false},
                    DirtyTrackingOptions{.tracker = vfio::TrackerKind::all, .pre_copy = false}),
    [](const auto& about) {
      return std::string(about.param.tracker ? "all" : "device") +
             (about.param.pre_copy ? "" : "_at_the_end");
    });

/// A guest that maps and unmaps without a pause, and gives an IOVA to another page as soon as it is free.
class Churn {
 public:
  static constexpr std::uint32_t kDomain = 7;
  static constexpr std::uint32_t kEndpoint = 8;
  static constexpr std::size_t kPlaces = 160;

  Churn(vfio::VirtualIommu& iommu, std::uint64_t ram_pages, std::uint64_t seed)
      : iommu_(iommu), ram_pages_(ram_pages), random_(seed) {}
  ~Churn() { stop(); }

  void start() {
    stop_ = false;
    thread_ = std::thread([this] {
      const auto begin = std::chrono::steady_clock::now();
      while (!stop_)
        batch();
      ran_ += std::chrono::steady_clock::now() - begin;
    });
  }
  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  std::uint64_t changes() const { return changes_; }
  /// While it runs; after stop().
  double changes_per_second() const { return static_cast<double>(changes_) / ran_.count(); }

  /// Somewhere that is mapped, or was a moment ago.
  WritingDevice::Place target(std::mt19937_64& random) const {
    const auto place = random() % kPlaces;
    const std::uint64_t bytes = mapped_[place] * kPageSize;
    if (bytes == 0) return {iova(place), 8};
    const auto offset = random() % bytes / 8 * 8;
    return {iova(place) + offset, std::min<std::size_t>(8 + random() % kPageSize / 8 * 8, bytes - offset)};
  }

 private:
  // Close together and far apart.
  static Iova iova(std::size_t place) {
    return Iova{0x1000'0000 + place * 0x4000 + (place % 3 == 0 ? std::uint64_t{place} << 34 : 0)};
  }

  void batch() {
    std::vector<IommuRequest> requests;
    std::vector<std::pair<std::size_t, std::uint64_t>> after;
    for (auto count = 1 + random_() % 96; count > 0; --count) {
      const auto place = random_() % kPlaces;
      auto pages = std::uint64_t{mapped_[place]};
      for (const auto& [changed, now] : after)
        if (changed == place) pages = now;
      if (pages > 0) {
        requests.push_back({.kind = IommuChange::Kind::unmap, .iova = iova(place), .size = 0x4000});
        after.emplace_back(place, 0);
        if (random_() % 4 == 0) continue;
      }
      pages = 1 + random_() % 3;
      requests.push_back({.kind = IommuChange::Kind::map,
                          .iova = iova(place),
                          .size = pages * kPageSize,
                          .target = Gpa{random_() % (ram_pages_ - pages) * kPageSize},
                          .flags = vfio::kDmaRead | vfio::kDmaWrite});
      after.emplace_back(place, pages);
    }
    iommu_.change(kDomain, requests);
    for (const auto& request : requests)
      if (!request.result) ADD_FAILURE() << request.result.error().to_string();
    for (const auto& [place, pages] : after)
      mapped_[place] = static_cast<std::uint32_t>(pages);
    changes_ += requests.size();
  }

  vfio::VirtualIommu& iommu_;
  const std::uint64_t ram_pages_;
  std::mt19937_64 random_;
  std::array<std::atomic<std::uint32_t>, kPlaces> mapped_{};
  std::atomic<std::uint64_t> changes_{0};
  std::chrono::duration<double> ran_{};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class BehindAnIommu : public testing::TestWithParam<DirtyTrackingOptions> {};

TEST_P(BehindAnIommu, NoPageIsLostWhileMappingsComeAndGo) {
  const auto seed = test::random_seed();
  std::mt19937_64 random(seed);
  std::atomic<const Churn*> guest{nullptr};
  DirtyRig rig(
      [&](std::mt19937_64& any) {
        const auto* churn = guest.load();
        return churn ? churn->target(any) : WritingDevice::Place{Iova{0}, 8};
      },
      seed);
  vfio::VirtualIommu iommu(*rig.memory, {});
  vfio::IovaMap map(iommu.options().iova_bits);
  auto dirt = vfio::DmaDirtySource::create("device `writer`", vfio::offers_of(*rig.device), map, GetParam());
  ASSERT_TRUE(dirt) << dirt.error().to_string();
  vfio::IommuEndpoint endpoint(*rig.device, *rig.memory, map, **dirt);
  iommu.add_endpoint(Churn::kEndpoint, endpoint);
  ASSERT_TRUE(iommu.attach(Churn::kEndpoint, Churn::kDomain));
  Churn churn(iommu, MiB / kPageSize, seed + 1);
  guest = &churn;
  churn.start();
  for (int i = 0; i < kMoves && !HasFatalFailure(); ++i)
    rig.move(**dirt, random, [&] { churn.stop(); }, [&] { churn.start(); });
  churn.stop();
  guest = nullptr;
  EXPECT_GT(rig.model.writes(), 0u);
  std::cout << kMoves << " migrations, " << churn.changes() << " changes at "
            << static_cast<std::uint64_t>(churn.changes_per_second()) << " a second while the guest ran, "
            << rig.model.writes() << " writes, " << rig.model.faults() << " where nothing was mapped\n";
  EXPECT_TRUE(iommu.detach(Churn::kEndpoint));
  EXPECT_EQ(map.size(), 0u);
  EXPECT_EQ(iommu.mappings(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Dirty, BehindAnIommu,
                         testing::Values(DirtyTrackingOptions{},
                                         DirtyTrackingOptions{.tracker = vfio::TrackerKind::all}),
                         [](const auto& about) {
                           return std::string(about.param.tracker ? "all" : "device");
                         });

// What the order is worth: unmapping first and asking afterwards, when the IOVA has been given to another
// page, marks that page and loses the one that was written.
TEST(UnmapWithDirt, AskingAfterwardsLosesThePageAndAskingWithItDoesNot) {
  constexpr Iova kIova{0x5000'0000};
  constexpr Gpa kWritten{0x10000};
  constexpr Gpa kOther{0x80000};
  for (const bool naive : {true, false}) {
    std::atomic<bool> write{false};
    DirtyRig rig(
        [&](std::mt19937_64&) {
          return write ? WritingDevice::Place{kIova, 8} : WritingDevice::Place{Iova{0}, 8};
        },
        1);
    vfio::VirtualIommu iommu(*rig.memory, {});
    vfio::IovaMap map(iommu.options().iova_bits);
    auto dirt =
        std::move(*vfio::DmaDirtySource::create("device `writer`", vfio::offers_of(*rig.device), map, {}));
    vfio::IommuEndpoint endpoint(*rig.device, *rig.memory, map, *dirt);
    iommu.add_endpoint(1, endpoint);
    ASSERT_TRUE(iommu.attach(1, 1));
    const auto request = [&](IommuChange::Kind kind, Gpa target) {
      IommuRequest one{.kind = kind, .iova = kIova, .size = kPageSize, .target = target, .flags = 3};
      iommu.change(1, {&one, 1});
      EXPECT_TRUE(one.result);
    };
    request(IommuChange::Kind::map, kWritten);
    ProcessWrites process(*rig.memory);
    ASSERT_TRUE(process.start());
    ASSERT_TRUE(dirt->start());
    write = true;
    while (rig.model.writes() == 0)
      std::this_thread::yield();
    rig.go(vfio::DeviceState::stop);

    if (naive) {
      ASSERT_TRUE(rig.device->dma_unmap({kIova, kPageSize}));
      map.going({kIova, kPageSize, kWritten, 3});
      map.gone({kIova, kPageSize, kWritten, 3});
      map.add({kIova, kPageSize, kOther, 3});
      const auto& block = *rig.memory->blocks()[0];
      ASSERT_TRUE(
          rig.device->dma_map({.iova = kIova, .size = kPageSize, .fd = block.fd(), .offset = kOther.value}));
    } else {
      request(IommuChange::Kind::unmap, {});
      request(IommuChange::Kind::map, kOther);
    }
    DirtyMemory found(*rig.memory);
    ASSERT_TRUE(process.sync(found, DirtySync::last));
    ASSERT_TRUE(dirt->sync(found, DirtySync::last));
    EXPECT_EQ(found.of(*rig.memory->blocks()[0]).test(kWritten.value / kPageSize), !naive);
    dirt->stop();
    process.stop();
  }
}

}  // namespace
}  // namespace handover::vfio_user
