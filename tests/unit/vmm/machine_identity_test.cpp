#include "vmm/machine_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vmm/state_bytes.h"

namespace handover::vmm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

MachineFacts facts() {
  MachineFacts facts{.ram_size = 1 * GiB, .vcpus = 1, .device_count = 1, .devices = {}};
  DeviceIdentity device;
  device.id = "accel0";
  device.slot = 1;
  device.vendor = 0x484f;
  device.device = 0xacc1;
  device.config_size = 256;
  device.bar_sizes = {4096, 4096, 128 * KiB, 0, 0, 0};
  device.msix_vectors = 2;
  device.migration_features = 7;
  facts.devices.push_back(device);
  return facts;
}

Status move(const MachineFacts& source, const MachineFacts& destination) {
  MachineIdentity from([&] { return source; });
  MachineIdentity to([&] { return destination; });
  const auto bytes = test::bytes_of([&](StreamWriter& out) { return from.save_state(out); });
  return test::load_from(bytes, [&](StreamReader& in) { return to.load_state(in, from.version_id()); });
}

TEST(MachineIdentity, EqualMachinesFit) {
  EXPECT_TRUE(move(facts(), facts()));
}

TEST(MachineIdentity, OtherMemorySizesAreNamedWithTheOptionThatHelps) {
  auto larger = facts();
  larger.ram_size = 2 * GiB;
  const auto moved = move(larger, facts());
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().to_string(),
            "this machine has 1 GiB of RAM, the stream's has 2 GiB; start the destination with --memory 2G");
}

TEST(MachineIdentity, OtherDevicesAreListed) {
  auto none = facts();
  none.devices.clear();
  none.device_count = 0;
  const auto moved = move(facts(), none);
  ASSERT_FALSE(moved);
  EXPECT_THAT(moved.error().to_string(), AllOf(HasSubstr("0 devices (none)"), HasSubstr("1 (`accel0`)")));
}

TEST(MachineIdentity, EveryDifferenceOfADeviceIsRefusedWithBothSides) {
  const std::vector<std::pair<void (*)(DeviceIdentity&), const char*>> changes = {
      {[](DeviceIdentity& d) { d.id = "other"; }, "`other`"},
      {[](DeviceIdentity& d) { d.slot = 4; }, "slot 1 here and in 4"},
      {[](DeviceIdentity& d) { d.device = 0x1234; }, "484f:acc1 here and 484f:1234"},
      {[](DeviceIdentity& d) { d.class_revision = 1; }, "00000000/00000000 here and 00000001/00000000"},
      {[](DeviceIdentity& d) { d.subsystem = 1; }, "subsystem"},
      {[](DeviceIdentity& d) { d.config_size = 4096; }, "256 bytes here and 4096 bytes"},
      {[](DeviceIdentity& d) { d.bar_sizes[2] = MiB; }, "BAR 2 of 131072 bytes here and 1 MiB"},
      {[](DeviceIdentity& d) { d.msix_vectors = 9; }, "2 MSI-X vectors here and 9"},
      {[](DeviceIdentity& d) { d.migration_features = 1; },
       "(stop-copy, p2p, pre-copy) here and (stop-copy)"},
  };
  for (const auto& [change, text] : changes) {
    auto theirs = facts();
    change(theirs.devices[0]);
    const auto moved = move(theirs, facts());
    ASSERT_FALSE(moved) << text;
    EXPECT_EQ(moved.error().code(), Errc::mismatch);
    EXPECT_THAT(moved.error().to_string(), AllOf(HasSubstr("accel0"), HasSubstr(text)));
  }
}

TEST(MachineIdentity, AnotherPlatformForPeersIsRefusedWithTheOption) {
  auto theirs = facts();
  theirs.p2p = false;
  const auto moved = move(theirs, facts());
  ASSERT_FALSE(moved);
  EXPECT_THAT(moved.error().to_string(), AllOf(HasSubstr("on in this machine"), HasSubstr("--p2p off")));
}

TEST(MachineIdentity, DescribesTheDevicesThatAreThereWhenItIsWritten) {
  auto now = facts();
  MachineIdentity from([&] { return now; });
  auto saved = [&] { return test::bytes_of([&](StreamWriter& out) { return from.save_state(out); }); };
  const auto before = saved();
  now.devices.push_back(now.devices[0]);
  now.device_count = 2;
  EXPECT_GT(saved().size(), before.size());
  now.devices.clear();
  now.device_count = 0;
  EXPECT_LT(saved().size(), before.size());
}

TEST(MachineIdentity, GoesOutBeforeEverythingElse) {
  EXPECT_TRUE(MachineIdentity([] { return facts(); }).is_early());
}

}  // namespace
}  // namespace handover::vmm
