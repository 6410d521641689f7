#include "vmm/peer_mappings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "unit/memory/random_seed.h"

namespace handover::vmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// A device of which only the DMA mappings are of interest.
class MappingDevice final : public vfio::Device {
 public:
  explicit MappingDevice(std::string id) : id_(std::move(id)) {}

  Status dma_map(const vfio::DmaMapping& mapping) override {
    const Call call(*this);
    if (refuse) return fail(Errc::device, "it refuses");
    EXPECT_TRUE(mapping.peer);
    for (const auto& [start, size] : maps)
      EXPECT_FALSE(mapping.iova.value < start + size && start < mapping.iova.value + mapping.size)
          << id_ << " has two mappings over each other";
    maps.emplace_back(mapping.iova.value, mapping.size);
    return {};
  }
  Status dma_unmap(const vfio::IovaRange& range) override {
    const Call call(*this);
    if (refuse) return fail(Errc::device, "it refuses");
    EXPECT_EQ(std::erase(maps, std::pair{range.start.value, range.size}), 1u);
    return {};
  }

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
  vfio::DmaLog* dma_log() override { return nullptr; }
  bool lost() const override { return gone; }
  void on_lost(std::function<void(std::string)>) override {}

  std::vector<std::pair<std::uint64_t, std::uint64_t>> maps;
  std::atomic<bool> refuse{false};
  std::atomic<bool> gone{false};
  std::atomic<int> calls{0};

 private:
  struct Call {
    explicit Call(MappingDevice& to) : device(to) {
      EXPECT_FALSE(device.busy_.exchange(true)) << "two threads change the mappings of one device";
      ++device.calls;
    }
    ~Call() { device.busy_ = false; }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    MappingDevice& device;
  };
  std::string id_;
  std::atomic<bool> busy_{false};
  vfio::DeviceInfo info_;
  vfio::RegionInfo region_;
  vfio::IrqInfo irq_;
};

constexpr std::uint64_t kSize = 4 * kPageSize;
constexpr std::uint64_t kA = 0xc0000000;
constexpr std::uint64_t kB = 0xc1000000;
constexpr std::uint64_t kC = 0xc2000000;

class PeerMappingsTest : public testing::Test {
 protected:
  PeerMappingsTest() {
    for (auto* device : {&a, &b, &c}) {
      peers.join(*device);
      bytes_[device] = std::make_shared<const Mapping>(Mapping::anonymous(kSize).value());
    }
  }
  void place(MappingDevice& device, std::uint64_t at) {
    peers.publish(device, {{.at = Gpa{at}, .bytes = bytes_.at(&device), .file = {}}});
  }
  void remove(MappingDevice& device) { peers.publish(device, {}); }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(1 * MiB).value();
  PeerMappings peers{*memory};
  MappingDevice a{"a"}, b{"b"}, c{"c"};

 private:
  std::map<MappingDevice*, std::shared_ptr<const Mapping>> bytes_;
};

TEST_F(PeerMappingsTest, AnAreaIsMappedForEveryDeviceButItsOwn) {
  place(a, kA);
  place(b, kB);
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(a.maps, ElementsAre(std::pair{kB, kSize}));
  EXPECT_THAT(b.maps, ElementsAre(std::pair{kA, kSize}));
  EXPECT_THAT(c.maps, testing::UnorderedElementsAre(std::pair{kA, kSize}, std::pair{kB, kSize}));
  const int before = c.calls;
  ASSERT_TRUE(peers.sync());
  EXPECT_EQ(c.calls, before) << "what is mapped already is left alone";
}

TEST_F(PeerMappingsTest, AnAreaIsFollowedWhereItGoes) {
  place(a, kA);
  ASSERT_TRUE(peers.sync());
  place(a, kA + kPageSize);  // over its old place: that goes first
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(b.maps, ElementsAre(std::pair{kA + kPageSize, kSize}));
  remove(a);
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(b.maps, IsEmpty());
  EXPECT_THAT(c.maps, IsEmpty());
}

TEST_F(PeerMappingsTest, TwoDevicesMayChangePlaces) {
  place(a, kA);
  place(b, kB);
  ASSERT_TRUE(peers.sync());
  place(a, kB);
  place(b, kA);
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(a.maps, ElementsAre(std::pair{kA, kSize}));
  EXPECT_THAT(c.maps, testing::UnorderedElementsAre(std::pair{kA, kSize}, std::pair{kB, kSize}));
}

TEST_F(PeerMappingsTest, WhatDoesNotAnswerOnTheBusIsNotMapped) {
  place(a, memory->size() - kPageSize);
  place(b, ~std::uint64_t{0} - kPageSize + 1);
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(c.maps, IsEmpty()) << "over RAM, or around the end of the address space";
  place(a, kA);
  place(b, kA + 2 * kPageSize);
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(c.maps, ElementsAre(std::pair{kA, kSize})) << "the first of two answers";
}

TEST_F(PeerMappingsTest, AFailureIsToldAndTriedAgain) {
  b.refuse = true;
  place(a, kA);
  const auto failed = peers.sync();
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().to_string(), testing::AllOf(HasSubstr("`b`"), HasSubstr("it refuses")));
  EXPECT_EQ(c.maps.size(), 1u) << "the others are served all the same";
  b.refuse = false;
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(b.maps, ElementsAre(std::pair{kA, kSize}));
  EXPECT_EQ(c.maps.size(), 1u);
}

TEST_F(PeerMappingsTest, AMachineThatArrivesDoesNotRunWithoutThem) {
  b.refuse = true;
  place(a, kA);
  EXPECT_FALSE(peers.prepare(RunState::inmigrate, RunState::running));
  EXPECT_TRUE(peers.prepare(RunState::paused, RunState::running)) << "it ran without them before";
  b.refuse = false;
  EXPECT_TRUE(peers.prepare(RunState::inmigrate, RunState::running));
  EXPECT_EQ(b.maps.size(), 1u);
}

TEST_F(PeerMappingsTest, ADeviceThatLeavesLeavesNothing) {
  place(a, kA);
  place(b, kB);
  ASSERT_TRUE(peers.sync());
  peers.leave(a);
  EXPECT_THAT(a.maps, IsEmpty());
  EXPECT_THAT(b.maps, IsEmpty());
  EXPECT_THAT(c.maps, ElementsAre(std::pair{kB, kSize}));
  peers.leave(a);
  place(a, kA);
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(b.maps, IsEmpty()) << "it has left";
}

TEST_F(PeerMappingsTest, WhatCouldNotBeUnmappedOfOneThatLeftGoesLater) {
  place(a, kA);
  ASSERT_TRUE(peers.sync());
  b.refuse = true;
  peers.leave(a);
  EXPECT_THAT(c.maps, IsEmpty());
  EXPECT_EQ(b.maps.size(), 1u);
  b.refuse = false;
  ASSERT_TRUE(peers.sync());
  EXPECT_THAT(b.maps, IsEmpty());
}

TEST_F(PeerMappingsTest, ALostDeviceIsLeftAlone) {
  b.gone = true;
  b.refuse = true;
  place(a, kA);
  place(b, kB);
  EXPECT_TRUE(peers.sync());
  peers.leave(b);
  EXPECT_EQ(b.calls, 0);
  EXPECT_THAT(c.maps, ElementsAre(std::pair{kA, kSize}));
}

// As load threads do, one for each device.
TEST_F(PeerMappingsTest, ThreadsThatComeTogetherMissNothing) {
  const std::uint64_t seed = test::random_seed();
  for (std::uint64_t round = 0; round < 200; ++round) {
    std::vector<std::thread> threads;
    const std::pair<MappingDevice*, std::uint64_t> places[] = {{&a, kA}, {&b, kB}, {&c, kC}};
    for (const auto& [device, at] : places)
      threads.emplace_back([this, to = device, start = at, round, seed] {
        std::mt19937_64 random(seed + round + start);
        for (int i = 0; i < 5; ++i) {
          place(*to, start + random() % 16 * kPageSize);
          EXPECT_TRUE(peers.sync());
        }
        place(*to, start);
        EXPECT_TRUE(peers.sync());
      });
    for (auto& thread : threads)
      thread.join();
    ASSERT_THAT(a.maps, testing::UnorderedElementsAre(std::pair{kB, kSize}, std::pair{kC, kSize}));
    ASSERT_THAT(b.maps, testing::UnorderedElementsAre(std::pair{kA, kSize}, std::pair{kC, kSize}));
    ASSERT_THAT(c.maps, testing::UnorderedElementsAre(std::pair{kA, kSize}, std::pair{kB, kSize}));
  }
}

}  // namespace
}  // namespace handover::vmm
