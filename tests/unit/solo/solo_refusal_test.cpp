// What does not fit is refused before anything has moved, with a sentence that says why.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "devices/accelerator/accelerator.h"
#include "solo/device_identity.h"
#include "unit/solo/solo_rig.h"
#include "unit/vmm/served_vm.h"

namespace handover::solo {
namespace {

using namespace test;
using handover::test::ServedAccelerator;
using handover::test::ServedVm;
using testing::ElementsAre;
using testing::HasSubstr;

DeviceShape shape() {
  DeviceShape shape;
  shape.features = vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;
  shape.vendor = 0x1234;
  shape.device = 0x5678;
  shape.config_bytes = 256;
  shape.bar_bytes = {4096, 0, 65536, 0, 0, 0};
  return shape;
}

TEST(DeviceShape, EveryDifferenceIsNamedWithBothSides) {
  struct Case {
    void (*change)(DeviceShape&);
    const char* here;
    const char* there;
  };
  const Case cases[] = {
      {[](DeviceShape& s) { s.vendor = 0xabcd; }, "1234:5678", "abcd:5678"},
      {[](DeviceShape& s) { s.device = 1; }, "1234:5678", "1234:0001"},
      {[](DeviceShape& s) { s.class_revision = 0x12000001; }, "class and revision 00000000", "12000001"},
      {[](DeviceShape& s) { s.subsystem = 0x00021111; }, "subsystem 0000:0000", "1111:0002"},
      {[](DeviceShape& s) { s.config_bytes = 4096; }, "256 bytes", "4096 bytes"},
      {[](DeviceShape& s) { s.bar_bytes[2] = 32768; }, "BAR 2 of 65536", "32768"},
      {[](DeviceShape& s) { s.msix_vectors = 3; }, "0 MSI-X", "3 in the stream"},
      {[](DeviceShape& s) { s.protocol = 1; }, "protocol v2", "v1 in the stream"},
      {[](DeviceShape& s) { s.features = 1; }, "(stop-copy, pre-copy)", "(stop-copy) in the stream"},
  };
  EXPECT_TRUE(compare_shapes("x", shape(), shape()));
  for (const auto& one : cases) {
    auto theirs = shape();
    one.change(theirs);
    const auto compared = compare_shapes("x", shape(), theirs);
    ASSERT_FALSE(compared) << one.there;
    EXPECT_EQ(compared.error().code(), Errc::mismatch);
    EXPECT_THAT(compared.error().to_string(),
                testing::AllOf(HasSubstr("`x`"), HasSubstr(one.here), HasSubstr(one.there)));
  }
}

TEST(SoloRefusal, ADeviceOfAnotherKindIsNotTouched) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there", vfio::kMigrationStopCopy);
  const auto before = there.model.state();
  Solo from(here.socket, {});
  const auto stream = save(from);
  Solo into(there.socket, {.side = Side::destination});
  const auto loaded = load(into, stream);
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error,
              HasSubstr("migrates with (stop-copy) here and (stop-copy, p2p, pre-copy) in the stream"));
  EXPECT_FALSE(into->abandon_load().value());
  EXPECT_THAT(visited(*into), ElementsAre(DeviceState::running));
  EXPECT_TRUE(there.model.take_arcs().empty());
  EXPECT_EQ(there.model.state(), before);
}

TEST(SoloRefusal, AWholeMachineIsNotLoadedIntoADevice) {
  ServedVm machine(1, false, {.working_set = 1 * MiB});
  Source source(machine.vm->machine(), &machine.vm->ram(), {});
  source.start(file_address(machine.folder.file("state")));
  ASSERT_EQ(source.wait(), MigrationStatus::completed) << source.statistics().error;
  const auto stream = read_bytes(machine.folder.file("state"));

  ServedAccelerator device(machine.folder.file("alone"));
  Solo into(machine.folder.file("alone"), {.side = Side::destination});
  const auto loaded = load(into, stream);
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error, HasSubstr("the stream is of a whole machine"));
  EXPECT_FALSE(into->abandon_load().value());
}

TEST(SoloRefusal, ADeviceAloneIsNotLoadedIntoAWholeMachine) {
  ServedVm machine(1, true, {});
  ServedAccelerator device(machine.folder.file("alone"));
  Solo from(machine.folder.file("alone"), {});
  const auto stream = save(from);
  Destination destination(machine.vm->machine(), {});
  destination.start(std::make_unique<MemoryChannel>("the stream", stream));
  EXPECT_EQ(destination.wait(), MigrationStatus::failed);
  EXPECT_THAT(destination.error(), HasSubstr("`handover-device`"));
  EXPECT_NE(machine.vm->machine().state(), RunState::running);
}

TEST(SoloRefusal, RoundsNeedPreCopyAndADeviceThatRuns) {
  const TempFolder folder;
  ServedToy plain(folder / "plain", vfio::kMigrationStopCopy);
  Solo without(plain.socket, {.rounds = 3});
  ASSERT_FALSE(without.made);
  EXPECT_THAT(without.made.error().to_string(), HasSubstr("no pre-copy"));

  ServedToy stopped(folder / "stopped");
  {
    Solo stopper(stopped.socket, {});
    ASSERT_TRUE(stopper.device->migration()->set_state(DeviceState::stop));
  }
  Solo standing(stopped.socket, {.rounds = 3});
  ASSERT_FALSE(standing.made);
  EXPECT_THAT(standing.made.error().to_string(), HasSubstr("state stop"));
}

TEST(SoloRefusal, ADeviceThatCannotMigrateSaysSo) {
  const TempFolder folder;
  ServedToy fixed(folder / "fixed", 0);
  Solo from(fixed.socket, {});
  ASSERT_FALSE(from.made);
  EXPECT_THAT(from.made.error().to_string(), HasSubstr("does not support migration"));
}

}  // namespace
}  // namespace handover::solo
