#include <gtest/gtest.h>

#include "unit/devices/migration_helpers.h"

namespace handover::accelerator::test {
namespace {

constexpr std::uint64_t kFeatures = vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;

void walk_to(Rig& rig, DeviceState to) {
  const auto path = vfio::path_between(DeviceState::running, to, kFeatures);
  ASSERT_TRUE(path);
  for (DeviceState state : *path)
    rig.walk({state});
}

void wait_for_piece(Rig& rig) {
  std::promise<void> done;
  rig.model->dma_unmapping({0}, 1, [&](const Status&) { done.set_value(); });
  done.get_future().wait();
}

Bytes some_state(GuestRam& ram) {
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  return save(rig);
}

// B3: every state that a client may ask for has a defined duty.
TEST(Arcs, EachLeavesTheDeviceAsItsTargetDemands) {
  int walked = 0;
  for (const vfio::DeviceArc& arc : vfio::device_arcs()) {
    if (vfio::find_arc(arc.from, arc.to, kFeatures) == nullptr) continue;
    SCOPED_TRACE(fmt::format("{} to {}", vfio::to_string(arc.from), vfio::to_string(arc.to)));
    ++walked;
    GuestRam ram;
    const Bytes state = some_state(ram);
    Rig rig(ram);
    Driver driver(ram, rig);
    driver.enable();
    walk_to(rig, arc.from);
    if (arc.from == DeviceState::resuming) {
      ASSERT_TRUE(rig.model->migration_write(state));
    }
    rig.walk({arc.to});

    std::byte bytes[16];
    EXPECT_EQ(rig.model->migration_read(bytes).has_value(), vfio::is_saving(arc.to));
    if (arc.to == DeviceState::resuming) {
      EXPECT_TRUE(rig.model->migration_write(std::span(state).first(1)));
      continue;
    }
    EXPECT_FALSE(rig.model->migration_write(std::span(state).first(1)));
    const bool works = arc.to == DeviceState::running || arc.to == DeviceState::pre_copy;
    rig.bus.seal(!works);
    driver.submit(job(1, Operation::fill, 0, 0, 8));
    if (works) driver.wait_all();
    wait_for_piece(rig);
    EXPECT_EQ(rig.bus.violations(), 0);
    EXPECT_EQ(driver.records().size(), works ? 1u : 0u);
  }
  EXPECT_EQ(walked, 15);
}

TEST(Arcs, CancelFromStopCopyGoesOnWithTheJobsThatWaited) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  rig.walk({DeviceState::pre_copy, DeviceState::pre_copy_p2p});
  driver.submit(job(1, Operation::fill, 0, 0, 8));
  rig.walk({DeviceState::stop_copy, DeviceState::stop, DeviceState::running_p2p, DeviceState::running});
  driver.wait_all();
  EXPECT_EQ(driver.records().size(), 1u);
}

TEST(Arcs, ResetLeavesEverySessionAndRuns) {
  GuestRam ram;
  for (const DeviceState state : {DeviceState::pre_copy, DeviceState::pre_copy_p2p, DeviceState::stop_copy,
                                  DeviceState::resuming, DeviceState::stop}) {
    SCOPED_TRACE(vfio::to_string(state));
    Rig rig(ram);
    walk_to(rig, state);
    ASSERT_TRUE(rig.reset());
    std::byte bytes[16]{};
    EXPECT_FALSE(rig.model->migration_read(bytes));
    EXPECT_FALSE(rig.model->migration_write(bytes));
    Driver driver(ram, rig);
    driver.enable();
    driver.submit(job(1, Operation::fill, 0, 0, 8));
    driver.wait_all();
  }
}

}  // namespace
}  // namespace handover::accelerator::test
