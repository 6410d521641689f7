#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "unit/vmm/accelerator_rig.h"
#include "unit/vmm/state_bytes.h"
#include "vmm/synthetic/pci_setup.h"

namespace handover::vmm {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
namespace reg = accelerator::reg;

/// Two accelerators on one bus, in slots 1 and 2, with peer to peer.
class PeersOnTheBus : public testing::Test {
 protected:
  PeersOnTheBus() {
    interrupts.start_thread();
    for (std::uint32_t i = 0; i < 2; ++i) {
      models.push_back(accelerator::Accelerator::create({.name = "accel", .memory_size = 1 * MiB}).value());
      devices.push_back(std::make_unique<test::DirectDevice>(fmt::format("accel{}", i), *models[i], *memory));
      fronts.push_back(
          PciDevice::attach(*devices[i], i + 1, {bus, *memory, sink, interrupts, &peers}).value());
      pci.plug(*fronts[i]);
    }
  }
  ~PeersOnTheBus() override {
    for (auto& front : fronts)
      if (front) pci.unplug(*front);
    fronts.clear();
  }
  /// What the device has mapped besides RAM.
  std::vector<std::uint64_t> peers_of(std::size_t device) const {
    std::vector<std::uint64_t> places;
    for (const auto& map : devices[device]->maps)
      if (map.start != Iova{0}) places.push_back(map.start.value);
    return places;
  }
  Gpa config(std::uint32_t slot, std::uint32_t at) { return Gpa{kEcamBase + slot * kEcamSlotBytes + at}; }

  test::WaitingSink sink;
  std::unique_ptr<GuestMemory> memory = GuestMemory::create(16 * MiB).value();
  AddressSpace bus{*memory};
  PeerMappings peers{*memory};
  PciBus pci{bus};
  EventLoop interrupts{"test-interrupts"};
  std::vector<std::unique_ptr<accelerator::Accelerator>> models;
  std::vector<std::unique_ptr<test::DirectDevice>> devices;
  std::vector<std::unique_ptr<PciDevice>> fronts;
};

TEST_F(PeersOnTheBus, MappableMemoryFollowsTheBarAndItsDecoding) {
  EXPECT_THAT(peers_of(1), IsEmpty()) << "nothing decodes before the guest has placed it";
  synthetic::PciSetup setup(bus);
  ASSERT_TRUE(setup.place_bars(1));
  const auto window = setup.bar(1, accelerator::kBarWindow);
  EXPECT_THAT(peers_of(1), ElementsAre(window + accelerator::kWindowMappableOffset))
      << "the part that is reached by messages is no memory";
  EXPECT_THAT(peers_of(0), IsEmpty());
  bus.store<std::uint16_t>(config(1, pci::kCommand), 0);
  EXPECT_THAT(peers_of(1), IsEmpty());
  bus.store<std::uint32_t>(config(1, pci::kBar0 + 4 * accelerator::kBarWindow), 0xd0000000);
  EXPECT_THAT(peers_of(1), IsEmpty());
  bus.store<std::uint16_t>(config(1, pci::kCommand), pci::kCommandMemory);
  EXPECT_THAT(peers_of(1), ElementsAre(0xd0000000 + accelerator::kWindowMappableOffset));
  bus.store<std::uint32_t>(config(1, pci::kBar0 + 4 * accelerator::kBarWindow), 0xd8000000);
  EXPECT_THAT(peers_of(1), ElementsAre(0xd8000000 + accelerator::kWindowMappableOffset));
}

TEST_F(PeersOnTheBus, AConfigurationThatIsLoadedIsMappedBeforeAnythingRuns) {
  synthetic::PciSetup setup(bus);
  ASSERT_TRUE(setup.place_bars(1));
  const auto window = setup.bar(1, accelerator::kBarWindow);
  const auto state = test::bytes_of([&](StreamWriter& out) { return fronts[0]->save(out); });
  bus.store<std::uint16_t>(config(1, pci::kCommand), 0);
  ASSERT_THAT(peers_of(1), IsEmpty());
  ASSERT_TRUE(test::load_from(state, [&](StreamReader& in) { return fronts[0]->load(in); }));
  ASSERT_TRUE(fronts[0]->apply());
  EXPECT_THAT(peers_of(1), ElementsAre(window + accelerator::kWindowMappableOffset));
}

// Mission D: one load thread a device.
TEST_F(PeersOnTheBus, ConfigurationsOfSeveralDevicesAreAppliedSideBySide) {
  synthetic::PciSetup setup(bus);
  std::vector<std::vector<std::byte>> states;
  for (const std::uint32_t slot : {1u, 2u}) {
    ASSERT_TRUE(setup.place_bars(slot));
    states.push_back(test::bytes_of([&](StreamWriter& out) { return fronts[slot - 1]->save(out); }));
  }
  const auto first = peers_of(0);
  const auto second = peers_of(1);
  for (int round = 0; round < 50; ++round) {
    for (const std::uint32_t slot : {1u, 2u})
      bus.store<std::uint16_t>(config(slot, pci::kCommand), 0);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 2; ++i)
      threads.emplace_back([&, i] {
        EXPECT_TRUE(test::load_from(states[i], [&](StreamReader& in) { return fronts[i]->load(in); }));
        EXPECT_TRUE(fronts[i]->apply());
      });
    for (auto& thread : threads)
      thread.join();
    ASSERT_EQ(peers_of(0), first);
    ASSERT_EQ(peers_of(1), second);
    ASSERT_EQ(bus.load<std::uint32_t>(Gpa{setup.bar(1, 0)} + reg::kId), accelerator::kIdValue);
    ASSERT_EQ(bus.load<std::uint32_t>(Gpa{setup.bar(2, 0)} + reg::kId), accelerator::kIdValue);
  }
}

TEST_F(PeersOnTheBus, ADeviceThatIsWithdrawnAnswersNobody) {
  synthetic::PciSetup setup(bus);
  for (const std::uint32_t slot : {1u, 2u})
    ASSERT_TRUE(setup.place_bars(slot));
  const Gpa registers{setup.bar(1, 0)};
  fronts[0]->withdraw();
  EXPECT_THAT(peers_of(1), IsEmpty());
  EXPECT_THAT(peers_of(0), IsEmpty());
  EXPECT_EQ(bus.load<std::uint32_t>(registers + reg::kId), 0xffffffffu);
  EXPECT_EQ(bus.load<std::uint32_t>(Gpa{setup.bar(2, 0)} + reg::kId), accelerator::kIdValue);
}

}  // namespace
}  // namespace handover::vmm
