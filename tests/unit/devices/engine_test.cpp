#include <gtest/gtest.h>

#include "unit/devices/job_oracle.h"
#include "unit/memory/random_seed.h"

namespace handover::accelerator::test {
namespace {

// Returns when the engine has finished the piece that it was at.
void wait_for_piece(Rig& rig) {
  std::promise<void> done;
  rig.model->dma_unmapping({0}, 1, [&](const Status&) { done.set_value(); });
  done.get_future().wait();
}

std::vector<std::byte> pattern_bytes(std::size_t size) {
  std::vector<std::byte> out(size);
  for (std::size_t i = 0; i < size; ++i)
    out[i] = static_cast<std::byte>(i * 7 + i / 251);
  return out;
}

TEST(Engine, CopiesInHashesFillsAndCopiesOut) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  const auto data = pattern_bytes(200'003);
  ram.copy_in(GuestRam::kData, data);
  driver.submit(job(1, Operation::copy_in, GuestRam::kData, 12'345, data.size()));
  driver.submit(job(2, Operation::hash, 0, 12'345, data.size()));
  driver.submit(job(3, Operation::fill, 0, 12'350, 13, 0x0807060504030201));
  driver.submit(job(4, Operation::copy_out, GuestRam::kData + 500'000, 12'345, 24));
  driver.wait_all();

  const auto records = driver.records();
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(records[i].id, i + 1);
    EXPECT_EQ(records[i].sequence, i + 1);
    EXPECT_EQ(records[i].status, 0u);
  }
  EXPECT_EQ(records[1].result, XXH3_64bits(data.data(), data.size()));
  std::vector<std::byte> expected(data.begin(), data.begin() + 24);
  for (std::size_t i = 0; i < 13; ++i)
    expected[5 + i] = static_cast<std::byte>(1 + i % 8);
  std::vector<std::byte> out(24);
  ram.copy_out(GuestRam::kData + 500'000, out);
  EXPECT_EQ(out, expected);
  wait_for_piece(rig);
  EXPECT_EQ(rig.read(reg::kCompleted), 4u);
  EXPECT_EQ(rig.read(reg::kJobsDone, 8), 4u);
  EXPECT_EQ(rig.read(reg::kInterruptsRaised, 8), 4u);
  EXPECT_EQ(rig.bus.interrupts(), 4);
}

TEST(Engine, RandomJobsDoWhatTheyShouldInOrder) {
  const auto seed = handover::test::random_seed();
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  JobOracle oracle(seed, ram, 4 * MiB);
  driver.enable();
  for (int i = 0; i < 600; ++i)
    driver.submit(oracle.next());
  driver.submit(oracle.hash_all());
  driver.wait_all();
  oracle.expect_records(driver.records());
  oracle.expect_guest_memory(ram);
}

TEST(Engine, BadDescriptorsCompleteWithTheirStatusAndTheNextOneRuns) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  driver.put(job(1, static_cast<Operation>(9), 0, 0, 8));
  driver.put(job(2, Operation::fill, 0, 4 * MiB - 7, 8));
  driver.put(job(3, Operation::hash, 0, ~std::uint64_t{0}, 2));
  driver.put(job(4, Operation::copy_in, GuestRam::kSize, 0, 8));
  driver.put(job(5, Operation::copy_out, ~std::uint64_t{0} - 3, 0, 8));
  driver.put(job(6, Operation::hash, 0, 0, 0));
  driver.ring();
  driver.wait_all();
  const auto records = driver.records();
  const JobStatus expected[] = {JobStatus::bad_operation, JobStatus::out_of_range, JobStatus::out_of_range,
                                JobStatus::dma_fault,     JobStatus::dma_fault,    JobStatus::ok};
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_EQ(records[i].status, static_cast<std::uint32_t>(expected[i])) << i;
  EXPECT_EQ(records[5].result, XXH3_64bits(nullptr, 0));
}

TEST(Engine, UnreachableRingIsAnErrorThatDisablingClears) {
  GuestRam ram;
  Rig rig(ram);
  rig.write(reg::kRingAddress, GuestRam::kSize, 8);
  rig.write(reg::kRingEntries, 4);
  rig.write(reg::kControl, kControlEnable);
  rig.write(reg::kDoorbell, 1);
  rig.bus.wait_calls(1);
  wait_for_piece(rig);
  EXPECT_EQ(rig.read(reg::kStatus), kStatusReady | kStatusEnabled | kStatusError);
  rig.write(reg::kControl, 0);
  EXPECT_EQ(rig.read(reg::kStatus), kStatusReady);
  Driver driver(ram, rig);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 0, 8));
  driver.wait_all();
}

TEST(Engine, InterruptsOnlyIfAskedFor) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable(kControlEnable);
  driver.submit(job(1, Operation::fill, 0, 0, 8));
  driver.wait_all();
  wait_for_piece(rig);
  EXPECT_EQ(rig.bus.interrupts(), 0);
  EXPECT_EQ(rig.read(reg::kInterruptsRaised, 8), 0u);
}

TEST(Engine, DisablingDropsTheJobAndStaysVisibleUntilItsDmaIsOver) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  rig.bus.block_after(2);  // the second piece
  driver.submit(job(1, Operation::copy_in, GuestRam::kData, 0, 4 * JobRunner::kPiece));
  rig.bus.wait_blocked();
  rig.write(reg::kControl, 0);
  EXPECT_EQ(rig.read(reg::kStatus), kStatusReady | kStatusEnabled);
  rig.bus.unblock();
  wait_for_piece(rig);
  EXPECT_EQ(rig.read(reg::kStatus), kStatusReady);
  EXPECT_TRUE(driver.records().empty());
  EXPECT_EQ(rig.bus.calls(), 3);
  driver.enable();
  driver.submit(job(2, Operation::fill, 0, 0, 8));
  driver.wait_all();
  EXPECT_EQ(driver.records().at(0).id, 2u);
}

TEST(Engine, UnmappingWaitsForThePieceUnderWay) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  rig.bus.block_after(1);
  driver.submit(job(1, Operation::copy_in, GuestRam::kData, 0, 4 * JobRunner::kPiece));
  rig.bus.wait_blocked();
  std::promise<int> calls;
  rig.model->dma_unmapping({0}, GuestRam::kSize, [&](const Status&) { calls.set_value(rig.bus.calls()); });
  auto future = calls.get_future();
  EXPECT_NE(future.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  rig.bus.unblock();
  EXPECT_EQ(future.get(), 2) << "the fetch and the piece that was held up";
  driver.wait_all();
}

TEST(Engine, HoldingWaitsForThePieceAndThenNothingHappens) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  rig.bus.block_after(2);
  driver.submit(job(1, Operation::copy_in, GuestRam::kData, 0, 4 * JobRunner::kPiece));
  rig.bus.wait_blocked();
  std::promise<void> quiet;
  rig.model->transition(DeviceState::running, DeviceState::running_p2p, [&](const Status&) {
    rig.bus.seal(true);
    quiet.set_value();
  });
  auto future = quiet.get_future();
  EXPECT_NE(future.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  rig.bus.unblock();
  future.wait();
  rig.state = DeviceState::running_p2p;
  driver.submit(job(2, Operation::fill, 0, 0, 8));
  wait_for_piece(rig);
  EXPECT_EQ(rig.bus.violations(), 0);
  rig.bus.seal(false);
  rig.walk({DeviceState::running});
  driver.wait_all();
  EXPECT_EQ(rig.bus.calls(), 1 + 4 + 1 + 1 + 1) << "the job went on where it was";
}

TEST(Engine, ClientThatWentAwayFindsItsJobsWaitingForTheDoorbell) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  rig.bus.block_after(2);
  driver.submit(job(1, Operation::copy_in, GuestRam::kData, 0, 4 * JobRunner::kPiece));
  rig.bus.wait_blocked();
  // The bus fails what is under way; that is no fault of the job.
  rig.bus.set_client_gone(true);
  rig.bus.unblock();
  std::promise<void> done;
  rig.model->disconnected([&](const Status&) { done.set_value(); });
  done.get_future().wait();
  rig.bus.seal(true);
  wait_for_piece(rig);
  EXPECT_EQ(rig.read(reg::kCompleted), 0u);
  EXPECT_EQ(rig.bus.violations(), 0);

  rig.bus.seal(false);
  rig.bus.set_client_gone(false);
  driver.ring();
  driver.wait_all();
  ASSERT_EQ(driver.records().size(), 1u);
  EXPECT_EQ(driver.records()[0].status, 0u);
}

TEST(Engine, ResetInTheMiddleOfWorkIsPowerOn) {
  GuestRam ram;
  Rig rig(ram);
  Driver driver(ram, rig);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 0, 4 * MiB, ~std::uint64_t{0}));
  driver.wait_all();
  rig.write(0x100, 0xabcd, 4, kBarWindow);
  rig.write(0x10, 0xabcd, 4, kBarMsix);
  rig.write(0x10, 0xfe000000, 4, vfio::kRegionConfig);
  driver.submit(job(2, Operation::copy_in, GuestRam::kData, 0, MiB));
  ASSERT_TRUE(rig.reset());
  EXPECT_EQ(rig.read(reg::kStatus), kStatusReady);
  EXPECT_EQ(rig.read(reg::kJobsDone, 8), 0u);
  EXPECT_EQ(rig.read(reg::kRingEntries), 0u);
  EXPECT_EQ(rig.read(0x100, 4, kBarWindow), 0u);
  EXPECT_EQ(rig.read(0x10, 4, kBarMsix), 0u);
  EXPECT_EQ(rig.read(0x10, 4, vfio::kRegionConfig), 0u);

  driver.enable();
  driver.submit(job(3, Operation::hash, 0, 0, 4 * MiB));
  driver.wait_all();
  const std::vector<std::byte> zeros(4 * MiB);
  EXPECT_EQ(driver.records().at(0).id, 3u);
  EXPECT_EQ(driver.records().at(0).result, XXH3_64bits(zeros.data(), zeros.size()));
}

TEST(Accelerator, RefusesMemoryOutOfItsRange) {
  for (const std::uint64_t size : {std::uint64_t{0}, MiB - kPageSize, 16 * GiB + kPageSize, MiB + 1}) {
    const auto made = Accelerator::create({.name = "a", .memory_size = size});
    ASSERT_FALSE(made) << size;
    EXPECT_EQ(made.error().code(), Errc::invalid_argument);
  }
  EXPECT_TRUE(Accelerator::create({.name = "a", .memory_size = 16 * GiB}));
}

TEST(Accelerator, AccessesBeyondARegionAreRefused) {
  GuestRam ram;
  Rig rig(ram);
  std::byte bytes[8]{};
  EXPECT_FALSE(rig.model->region_read(kBarMsix, kMsixBarSize - 4, bytes));
  EXPECT_FALSE(rig.model->region_write(kBarWindow, ~std::uint64_t{0} - 3, bytes));
  EXPECT_FALSE(rig.model->region_read(3, 0, bytes));
  EXPECT_FALSE(rig.model->region_read(vfio::kPciRegions, 0, bytes));
}

}  // namespace
}  // namespace handover::accelerator::test
