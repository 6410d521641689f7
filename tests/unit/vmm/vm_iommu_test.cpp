// Machines whose guest has an IOMMU: it maps and unmaps for every job of its devices, and moves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_folder.h"
#include "unit/memory/random_seed.h"
#include "unit/vmm/served_vm.h"

namespace handover::vmm {
namespace {

using test::ServedOptions;
using test::ServedVm;
using testing::AllOf;
using testing::HasSubstr;

constexpr auto kPatience = std::chrono::minutes(3);

VmConfig machine(bool incoming = false) {
  const GuestOptions guest{
      .working_set = 4 * MiB, .dirty_rate = 10 * MiB, .job_rate = 800, .seed = test::random_seed()};
  return {.memory = 32 * MiB, .devices = {}, .guest = guest, .viommu = true, .incoming = incoming};
}

void expect_sound(const ServedVm& machine) {
  const auto verified = machine.vm->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  const auto report = machine.vm->guest();
  EXPECT_EQ(report.mismatches, 0u);
  EXPECT_EQ(report.devices_lost, 0u);
  EXPECT_EQ(report.interrupts_lost, 0u);
}

Source::Options patient() {
  Source::Options options;
  options.parameters.downtime_limit_ms = 60'000;
  options.parameters.max_bandwidth = 0;
  return options;
}

void move(ServedVm& source, ServedVm& destination) {
  const auto moved = test::migrate(source, destination);
  ASSERT_EQ(moved.source, MigrationStatus::completed) << moved.error;
  ASSERT_EQ(moved.destination, MigrationStatus::completed) << moved.error;
}

TEST(VmIommu, DevicesReachWhatIsMappedAndNothingElse) {
  ServedVm machine_here({ServedOptions{}, ServedOptions{}}, machine());
  EXPECT_EQ(machine_here.vm->devices()[0].dma_mappings, 0u);
  ASSERT_TRUE(machine_here.start());
  ASSERT_TRUE(machine_here.wait_for([&] { return machine_here.vm->guest().iommu_faults >= 20; }));
  expect_sound(machine_here);
  EXPECT_GT(machine_here.vm->guest().iommu_mappings, 100u);
  const auto faults =
      machine_here.servers[0]->server->dma_faults() + machine_here.servers[1]->server->dma_faults();
  EXPECT_GE(faults, machine_here.vm->guest().iommu_faults) << "each device counts its own";
  EXPECT_EQ(machine_here.vm->guest().p2p_jobs, 0u) << "no device reaches another";
  const auto mapped = machine_here.vm->devices()[0].dma_mappings;
  EXPECT_GE(mapped, 2u) << "its rings";
  EXPECT_LE(mapped, 2u + 16u) << "and buffers under way";
}

// Mission A8.
TEST(VmIommu, ItsGuestMovesThereAndBackUnderLoad) {
  auto here = std::make_unique<ServedVm>(std::vector<ServedOptions>(2), machine());
  ASSERT_TRUE(here->start());
  ASSERT_TRUE(here->do_jobs(600));
  for (int hop = 0; hop < 4 && !HasFatalFailure(); ++hop) {
    auto there = std::make_unique<ServedVm>(std::vector<ServedOptions>(2), machine(true));
    move(*here, *there);
    const auto mappings = there->vm->guest().iommu_mappings;
    EXPECT_GE(mappings, here->vm->guest().iommu_mappings);
    ASSERT_TRUE(there->do_jobs(300));
    EXPECT_GT(there->vm->guest().iommu_mappings, mappings);
    expect_sound(*there);
    here = std::move(there);
  }
}

TEST(VmIommu, ACancelledMigrationLeavesTheGuestWhole) {
  ServedVm here(std::vector<ServedOptions>(2), machine());
  ASSERT_TRUE(here.start());
  ASSERT_TRUE(here.do_jobs(100));
  for (int round = 0; round < 3; ++round) {
    ServedVm there(std::vector<ServedOptions>(2), machine(true));
    test::ChannelPair channels;
    Destination incoming(there.vm->machine(), {});
    incoming.start(std::move(channels.second));
    auto options = patient();
    options.parameters.max_bandwidth = 20 * MiB;
    options.parameters.downtime_limit_ms = 0;
    Source outgoing(here.vm->machine(), &here.vm->ram(), options);
    outgoing.start(std::move(channels.first));
    ASSERT_TRUE(here.do_jobs(50));
    ASSERT_TRUE(outgoing.cancel());
    EXPECT_EQ(outgoing.wait(), MigrationStatus::cancelled);
    ASSERT_TRUE(here.do_jobs(50));
    expect_sound(here);
  }
  ServedVm there(std::vector<ServedOptions>(2), machine(true));
  move(here, there);
  expect_sound(there);
}

TEST(VmIommu, ASnapshotBringsItsMappings) {
  const test::TempFolder folder;
  Address file;
  file.kind = Address::Kind::file;
  file.path = folder / "machine";
  {
    ServedVm here({ServedOptions{}}, machine());
    ASSERT_TRUE(here.start());
    ASSERT_TRUE(here.do_jobs(300));
    Source outgoing(here.vm->machine(), &here.vm->ram(), patient());
    outgoing.start(SnapshotPlan{.path = file.path});
    ASSERT_EQ(outgoing.wait(), MigrationStatus::completed) << outgoing.statistics().error;
    ASSERT_TRUE(here.do_jobs(50));
    expect_sound(here);
  }
  ServedVm there({ServedOptions{}}, machine(true));
  Destination incoming(there.vm->machine(), {});
  incoming.start(listen_on(file).value());
  ASSERT_EQ(incoming.wait(), MigrationStatus::completed) << incoming.error();
  ASSERT_TRUE(there.do_jobs(300));
  expect_sound(there);
}

TEST(VmIommu, AMachineWithoutOneIsRefusedAndSaysWhatIsMissing) {
  ServedVm here({ServedOptions{}}, machine());
  auto plain = machine(true);
  plain.viommu = false;
  ServedVm there({ServedOptions{}}, plain);
  ASSERT_TRUE(here.start());
  ASSERT_TRUE(here.do_jobs(20));
  test::ChannelPair channels;
  Destination incoming(there.vm->machine(), {});
  incoming.start(std::move(channels.second));
  Source outgoing(here.vm->machine(), &here.vm->ram(), patient());
  outgoing.start(std::move(channels.first));
  EXPECT_EQ(incoming.wait(), MigrationStatus::failed);
  EXPECT_THAT(incoming.error(), HasSubstr("start the destination with --viommu"));
  EXPECT_EQ(outgoing.wait(), MigrationStatus::failed);
  ASSERT_TRUE(here.do_jobs(20));
  expect_sound(here);
}

// Without a P2P state: devices that cannot reach each other need none.
TEST(VmIommu, SeveralDevicesWithoutP2pStatesMayMigrate) {
  ServedOptions device;
  device.features = vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;
  ServedVm here({device, device}, machine());
  ServedVm there({device, device}, machine(true));
  EXPECT_TRUE(here.vm->blockers().reasons().empty());
  ASSERT_TRUE(here.start());
  ASSERT_TRUE(here.do_jobs(50));
  move(here, there);
  ASSERT_TRUE(there.do_jobs(50));
  expect_sound(there);
}

TEST(VmIommu, ADeviceIsPluggedBehindItAndUnplugged) {
  ServedVm here({ServedOptions{}}, machine());
  ASSERT_TRUE(here.start());
  ASSERT_TRUE(here.do_jobs(50));
  ASSERT_TRUE(here.vm->plug(here.serve()));
  EXPECT_EQ(here.vm->devices().at(1).dma_mappings, 0u) << "nobody has mapped anything for it";
  ASSERT_TRUE(here.do_jobs(50));
  ASSERT_TRUE(here.vm->unplug("accel1"));
  ASSERT_TRUE(here.do_jobs(50));
  ServedVm there({ServedOptions{}}, machine(true));
  move(here, there);
  expect_sound(there);
}

}  // namespace
}  // namespace handover::vmm
