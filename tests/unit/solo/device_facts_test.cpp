#include "handover/solo/device_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/solo/solo_rig.h"

namespace handover::solo {
namespace {

using namespace test;

TEST(DeviceFacts, SayWhatTheDeviceIsAndChangeNothing) {
  const TempFolder folder;
  ServedToy toy(folder / "toy");
  Solo solo(toy.socket, {});
  toy.model.take_arcs();
  const auto facts = look_at(*solo.device);
  ASSERT_TRUE(facts) << facts.error().to_string();
  EXPECT_EQ(facts->id, "toy");
  EXPECT_TRUE(facts->resettable);
  EXPECT_TRUE(facts->dma_log);
  ASSERT_EQ(facts->regions.size(), 4u) << "BAR 0, BAR 2, ROM and config space";
  EXPECT_EQ(facts->regions[1].index, 2u);
  EXPECT_EQ(facts->regions[1].areas.size(), 2u);
  ASSERT_EQ(facts->irqs.size(), 4u);
  EXPECT_EQ(facts->irqs[1].count, 4u);
  ASSERT_TRUE(facts->pci);
  EXPECT_EQ(facts->pci->config_bytes, 256u);
  ASSERT_TRUE(facts->migration);
  EXPECT_EQ(facts->migration->features, 7u);
  EXPECT_EQ(facts->migration->state, DeviceState::running);
  EXPECT_TRUE(facts->migration->precopy_info);
  EXPECT_EQ(facts->migration->stop_copy_bytes, vfio_user::ToyDevice::kStateSize + 8);
  EXPECT_GT(facts->migration->chunk_bytes, 0u);
  EXPECT_TRUE(toy.model.take_arcs().empty());
}

TEST(DeviceFacts, AStoppedDeviceIsFoundStoppedAndStaysSo) {
  const TempFolder folder;
  ServedToy toy(folder / "toy");
  {
    Solo stopper(toy.socket, {});
    ASSERT_TRUE(stopper.device->migration()->set_state(DeviceState::stop));
  }
  Solo solo(toy.socket, {});
  EXPECT_EQ(look_at(*solo.device)->migration->state, DeviceState::stop);
  EXPECT_EQ(toy.server->device_state(), DeviceState::stop);
}

TEST(DeviceFacts, ADeviceThatCannotMigrateSaysWhy) {
  const TempFolder folder;
  ServedToy toy(folder / "toy", 0);
  Solo solo(toy.socket, {});
  const auto facts = look_at(*solo.device);
  ASSERT_TRUE(facts);
  EXPECT_FALSE(facts->migration);
  EXPECT_THAT(facts->migration_blocker, testing::HasSubstr("does not support migration"));
}

}  // namespace
}  // namespace handover::solo
