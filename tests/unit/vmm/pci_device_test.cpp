#include "vmm/pci_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vmm/accelerator_rig.h"
#include "unit/vmm/state_bytes.h"
#include "vmm/synthetic/pci_setup.h"

namespace handover::vmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
namespace reg = accelerator::reg;

constexpr std::size_t kStateBytes = 4 + 256 + 16 + 2 * 16 + 1;

class PciDeviceTest : public testing::Test {
 protected:
  Gpa config(std::uint32_t at) { return Gpa{kEcamBase + kEcamSlotBytes + at}; }
  /// As the guest's driver does it; vectors 40 and 41.
  void bring_up() {
    rig.running(true);
    synthetic::PciSetup setup(rig.bus);
    ASSERT_TRUE(setup.place_bars(1));
    ASSERT_EQ(setup.enable_msix(1, 40, 2), 2u);
    registers = Gpa{setup.bar(1, accelerator::kBarRegisters)};
    window = Gpa{setup.bar(1, accelerator::kBarWindow)};
  }
  std::vector<std::byte> saved() {
    return test::bytes_of([&](StreamWriter& out) { return rig.front->save(out); });
  }

  test::WaitingSink sink;
  test::AcceleratorRig rig{sink};
  Gpa registers, window;
};

TEST_F(PciDeviceTest, TheGuestFindsItAndEmptySlotsReadAsOnes) {
  synthetic::PciSetup setup(rig.bus);
  EXPECT_THAT(setup.find(accelerator::kVendorId, accelerator::kDeviceId), ElementsAre(1u));
  EXPECT_EQ(rig.bus.load<std::uint32_t>(Gpa{kEcamBase + 2 * kEcamSlotBytes}), 0xffffffffu);
}

TEST_F(PciDeviceTest, AllRamIsMappedForItsDma) {
  ASSERT_EQ(rig.device.maps.size(), 1u);
  EXPECT_EQ(rig.device.maps[0].start, Iova{0});
  EXPECT_EQ(rig.device.maps[0].size, 16 * MiB);
}

TEST_F(PciDeviceTest, BarsAnswerWhereTheyWerePlacedAndOnlyWhileDecodingIsOn) {
  bring_up();
  EXPECT_EQ(rig.bus.load<std::uint32_t>(registers + reg::kId), accelerator::kIdValue);
  rig.bus.store<std::uint16_t>(config(pci::kCommand), 0);
  EXPECT_EQ(rig.bus.load<std::uint32_t>(registers + reg::kId), 0xffffffffu);
  rig.bus.store<std::uint16_t>(config(pci::kCommand), pci::kCommandMemory);
  EXPECT_EQ(rig.bus.load<std::uint32_t>(registers + reg::kId), accelerator::kIdValue);
  rig.bus.store<std::uint32_t>(config(pci::kBar0), 0xd0000000);
  EXPECT_EQ(rig.bus.load<std::uint32_t>(registers + reg::kId), 0xffffffffu);
  EXPECT_EQ(rig.bus.load<std::uint32_t>(Gpa{0xd0000000} + reg::kId), accelerator::kIdValue);
}

TEST_F(PciDeviceTest, BarAddressesStayHereAndTheCommandGoesToTheDevice) {
  bring_up();
  bool command = false;
  for (const auto& [at, bytes] : rig.device.config_writes) {
    EXPECT_FALSE(at >= pci::kBar0 && at < pci::kBar0 + 24) << "a BAR was written to the device";
    if (at == pci::kCommand) command = bytes.size() == 2 && (bytes[0] & std::byte{6}) == std::byte{6};
  }
  EXPECT_TRUE(command);
}

TEST_F(PciDeviceTest, TheMappedWindowAndTheMessagePageShowTheSameMemory) {
  bring_up();
  rig.bus.store<std::uint64_t>(window + 8, 0x1234);               // by message
  rig.bus.store<std::uint64_t>(window + 0x1ffc, 0x5566778899aa);  // mapped
  std::byte raw[8];
  ASSERT_TRUE(rig.device.region_read(accelerator::kBarWindow, 8, raw));
  EXPECT_EQ(load_le<std::uint64_t>(raw), 0x1234u);
  ASSERT_TRUE(rig.device.region_read(accelerator::kBarWindow, 0x1ffc, raw));
  EXPECT_EQ(load_le<std::uint64_t>(raw), 0x5566778899aau);
}

TEST_F(PciDeviceTest, TheMsixTableNeverReachesTheDevice) {
  bring_up();
  std::byte raw[32];
  ASSERT_TRUE(rig.device.region_read(accelerator::kBarMsix, 0, raw));
  EXPECT_THAT(raw, testing::Each(std::byte{0}));
}

TEST_F(PciDeviceTest, RaisedVectorsReachTheGuest) {
  bring_up();
  EXPECT_EQ(rig.device.eventfds_installed(), 2u);
  rig.device.raise(1);
  EXPECT_THAT(sink.wait_for(1), ElementsAre(41u));
  rig.device.raise(0);
  EXPECT_THAT(sink.wait_for(2), ElementsAre(41u, 40u));
}

TEST_F(PciDeviceTest, SwitchingMsixOffTakesTheEventfdsAway) {
  bring_up();
  rig.bus.store<std::uint16_t>(config(rig.front->config().msix() + pci::kMsixControl), 0);
  EXPECT_EQ(rig.device.eventfds_installed(), 0u);
}

TEST_F(PciDeviceTest, InterruptsOfAStoppedMachineAreDeliveredWhenItRunsOn) {
  bring_up();
  rig.running(false);
  rig.device.raise(0);
  rig.front->collect_interrupts();
  EXPECT_THAT(sink.taken(), IsEmpty());
  rig.running(true);
  EXPECT_THAT(sink.wait_for(1), ElementsAre(40u));
}

TEST_F(PciDeviceTest, StateHasQemusLayout) {
  bring_up();
  const auto bytes = saved();
  ASSERT_EQ(bytes.size(), kStateBytes);
  EXPECT_EQ(load_be<std::uint32_t>(bytes.data()), 2u);
  EXPECT_EQ(load_le<std::uint16_t>(bytes.data() + 4), accelerator::kVendorId);
  EXPECT_EQ(load_le<std::uint32_t>(bytes.data() + 4 + pci::kBar0) & ~0xfu, registers.value);
  const std::byte* table = bytes.data() + 4 + 256 + 16;
  EXPECT_EQ(load_le<std::uint32_t>(table), 0xfee00000u);
  EXPECT_EQ(load_le<std::uint32_t>(table + 16 + 8), 41u);
}

TEST_F(PciDeviceTest, InterruptsTravelWithTheState) {
  bring_up();
  rig.running(false);
  rig.device.raise(1);
  rig.front->collect_interrupts();
  const auto bytes = saved();
  EXPECT_EQ(bytes.back(), std::byte{2}) << "pending bit of vector 1";

  test::WaitingSink sink_there;
  test::AcceleratorRig there(sink_there);
  ASSERT_TRUE(test::load_from(bytes, [&](StreamReader& in) { return there.front->load(in); }));
  ASSERT_TRUE(there.front->apply());
  EXPECT_EQ(there.bus.load<std::uint32_t>(registers + reg::kId), accelerator::kIdValue)
      << "BARs are where they were";
  EXPECT_EQ(there.device.eventfds_installed(), 2u);
  EXPECT_THAT(sink_there.taken(), IsEmpty());
  there.running(true);
  EXPECT_THAT(sink_there.wait_for(1), ElementsAre(41u));
  there.device.raise(0);
  EXPECT_THAT(sink_there.wait_for(2), ElementsAre(41u, 40u));
  EXPECT_EQ(saved().size(), kStateBytes);
}

TEST_F(PciDeviceTest, SavedStateIsTheSameAfterALoad) {
  bring_up();
  rig.running(false);
  const auto bytes = saved();
  test::WaitingSink sink_there;
  test::AcceleratorRig there(sink_there);
  ASSERT_TRUE(test::load_from(bytes, [&](StreamReader& in) { return there.front->load(in); }));
  EXPECT_EQ(test::bytes_of([&](StreamWriter& out) { return there.front->save(out); }), bytes);
}

TEST_F(PciDeviceTest, AnotherDeviceIsRefusedWithBothNames) {
  auto bytes = saved();
  store_le<std::uint32_t>(bytes.data() + 4, 0x56781234);
  const auto loaded = test::load_from(bytes, [&](StreamReader& in) { return rig.front->load(in); });
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Errc::mismatch);
  EXPECT_THAT(loaded.error().to_string(),
              HasSubstr("device `accel0` is 484f:acc1 here and 1234:5678 in the stream"));
}

TEST_F(PciDeviceTest, AnotherNumberOfVectorsIsRefused) {
  auto bytes = saved();
  store_le<std::uint16_t>(bytes.data() + 4 + rig.front->config().msix() + 2, 7);
  const auto loaded = test::load_from(bytes, [&](StreamReader& in) { return rig.front->load(in); });
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().to_string(), HasSubstr("2 MSI-X vectors here and 8 in the stream"));
}

TEST_F(PciDeviceTest, AStateCutAnywhereIsRefused) {
  const auto bytes = saved();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_FALSE(test::load_from(cut, [&](StreamReader& in) { return rig.front->load(in); })) << length;
  }
}

TEST_F(PciDeviceTest, ARaisedInterruptLineIsRefused) {
  auto bytes = saved();
  bytes[4 + 256 + 3] = std::byte{1};
  const auto loaded = test::load_from(bytes, [&](StreamReader& in) { return rig.front->load(in); });
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().to_string(), HasSubstr("INTA"));
}

TEST_F(PciDeviceTest, ALostDeviceReadsAsOnesEverywhere) {
  bring_up();
  rig.device.die();
  EXPECT_EQ(rig.bus.load<std::uint32_t>(registers + reg::kId), 0xffffffffu);
  EXPECT_EQ(rig.bus.load<std::uint32_t>(config(0)), 0xffffffffu);
  rig.bus.store<std::uint32_t>(registers + reg::kControl, 1);
}

}  // namespace
}  // namespace handover::vmm
