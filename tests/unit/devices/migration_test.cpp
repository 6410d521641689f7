#include <gtest/gtest.h>
#include <sys/mman.h>

#include <thread>

#include "handover/base/mapping.h"
#include "unit/devices/job_oracle.h"
#include "unit/devices/migration_helpers.h"
#include "unit/memory/random_seed.h"

namespace handover::accelerator::test {
namespace {

Status write_cut(Rig& rig, std::span<const std::byte> stream, JobOracle& oracle) {
  while (!stream.empty()) {
    const std::size_t part =
        std::min<std::size_t>(stream.size(), 1 + oracle.below(oracle.below(3) ? 40 : 200'000));
    HANDOVER_TRY(rig.model->migration_write(stream.first(part)));
    stream = stream.subspan(part);
  }
  return {};
}

// C1, C2: pre-copy while jobs run, a pause anywhere, the rest at the end; nothing lost, nothing twice.
void migrate_under_load(std::uint64_t seed) {
  SCOPED_TRACE(fmt::format("seed {}", seed));
  GuestRam ram;
  Rig source(ram);
  Rig destination(ram);
  Driver driver(ram, source);
  JobOracle oracle(seed, ram, 4 * MiB);
  const auto submit_some = [&](std::uint64_t most) {
    for (std::uint64_t i = oracle.below(most); i > 0 && !driver.full(); --i)
      driver.submit(oracle.next());
  };
  driver.enable();
  submit_some(60);

  Bytes stream;
  source.walk({DeviceState::pre_copy});
  for (std::uint64_t i = oracle.below(20); i > 0; --i) {
    submit_some(20);
    read_chunk(source, stream, oracle.below(oracle.below(2) ? 6000 : MiB));
    if (oracle.below(8) == 0) source.walk({DeviceState::pre_copy_p2p, DeviceState::pre_copy});
  }
  submit_some(60);
  for (std::uint64_t i = oracle.below(50); i > 0; --i)
    std::this_thread::yield();
  source.walk({DeviceState::pre_copy_p2p});
  source.bus.seal(true);
  if (oracle.below(2)) read_chunk(source, stream, oracle.below(MiB));
  source.walk({DeviceState::stop_copy});
  read_all(source, stream, 1 + oracle.below(MiB));
  source.walk({DeviceState::stop});
  const std::uint64_t jobs_done = source.read(reg::kJobsDone, 8);

  begin_load(destination);
  const Status written = write_cut(destination, stream, oracle);
  ASSERT_TRUE(written) << written.error().to_string();
  destination.walk({DeviceState::stop});
  EXPECT_EQ(destination.read(reg::kJobsDone, 8), jobs_done);
  driver.move_to(destination);
  start(destination);
  submit_some(20);
  driver.put(oracle.hash_all());
  driver.ring();
  driver.wait_all();
  oracle.expect_records(driver.records());
  oracle.expect_guest_memory(ram);
  EXPECT_EQ(source.bus.violations(), 0);
  destination.walk({DeviceState::running_p2p});
  EXPECT_EQ(source.bus.interrupts() + destination.bus.interrupts(),
            static_cast<int>(driver.records().size()));
  EXPECT_EQ(destination.read(reg::kJobsDone, 8), driver.records().size());
  EXPECT_EQ(destination.read(reg::kInterruptsRaised, 8), driver.records().size());
}

TEST(Migration, UnderLoadLosesNothingAndRepeatsNothing) {
  const auto seed = handover::test::random_seed();
  for (std::uint64_t round = 0; round < 40; ++round) {
    migrate_under_load(seed + round);
    if (HasFatalFailure()) return;
  }
}

TEST(Migration, ACopyGoesOnWhereItWas) {
  GuestRam ram;
  Rig source(ram);
  Rig destination(ram);
  Driver driver(ram, source);
  driver.enable();
  source.bus.block_after(3);  // the fetch and two pieces pass
  driver.submit(job(77, Operation::copy_in, GuestRam::kData, 0, 8 * JobRunner::kPiece));
  source.bus.wait_blocked();
  std::promise<void> quiet;
  source.model->transition(DeviceState::running, DeviceState::running_p2p,
                           [&](const Status&) { quiet.set_value(); });
  source.bus.unblock();
  quiet.get_future().wait();
  source.state = DeviceState::running_p2p;
  Bytes stream;
  source.walk({DeviceState::stop, DeviceState::stop_copy});
  read_all(source, stream);

  ASSERT_TRUE(load(destination, stream));
  start(destination);
  driver.wait_all();
  destination.walk({DeviceState::running_p2p});
  EXPECT_EQ(destination.bus.calls(), 5 + 1) << "five of eight pieces and the record";
  EXPECT_EQ(driver.records().size(), 1u);
}

TEST(Migration, StopCopyAloneCarriesRegistersWindowConfigurationAndMsix) {
  GuestRam ram;
  Rig source(ram);
  Rig destination(ram);
  // The client stores into the window without the device knowing.
  const auto& region = source.model->spec().regions[kBarWindow];
  ASSERT_EQ(region.areas.size(), 1u);
  auto mapped =
      Mapping::shared(region.fd, region.areas[0].offset, region.areas[0].size, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(mapped);
  mapped->data()[5] = std::byte{0x5a};
  source.write(8, 0x77, 4, kBarWindow);
  source.write(0x10, 0x1234, 8, kBarMsix);
  source.write(0x42, 0x8000, 2, vfio::kRegionConfig);
  source.write(reg::kRingAddress, 0x123456789000, 8);
  source.write(reg::kControl, kControlInterrupt);

  const Bytes stream = save(source);
  ASSERT_TRUE(load(destination, stream));
  EXPECT_EQ(destination.read(region.areas[0].offset + 5, 1, kBarWindow), 0x5au);
  EXPECT_EQ(destination.read(8, 4, kBarWindow), 0x77u);
  EXPECT_EQ(destination.read(0x10, 8, kBarMsix), 0x1234u);
  EXPECT_EQ(destination.read(0x42, 2, vfio::kRegionConfig), 0x8001u);
  EXPECT_EQ(destination.read(reg::kRingAddress, 8), 0x123456789000u);
  EXPECT_EQ(destination.read(reg::kControl), kControlInterrupt);
}

TEST(Migration, ZeroPagesAreNotSentButPagesThatBecameZeroAre) {
  GuestRam ram;
  Rig source(ram);
  Rig destination(ram);
  Driver driver(ram, source);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 0, 4 * MiB, 0));
  driver.submit(job(2, Operation::fill, 0, 0, 64 * KiB, 0xab));
  driver.wait_all();
  Bytes stream;
  source.walk({DeviceState::pre_copy});
  read_all(source, stream);
  EXPECT_GT(stream.size(), 64 * KiB);
  EXPECT_LT(stream.size(), 80 * KiB);
  driver.submit(job(3, Operation::fill, 0, 0, 64 * KiB, 0));
  driver.wait_all();
  const std::size_t before = stream.size();
  read_all(source, stream);
  EXPECT_GT(stream.size(), before);
  EXPECT_LT(stream.size(), before + 1000);
  source.walk({DeviceState::pre_copy_p2p, DeviceState::stop_copy});
  read_all(source, stream);
  ASSERT_TRUE(load(destination, stream));

  driver.move_to(destination);
  start(destination);
  driver.submit(job(4, Operation::hash, 0, 0, 4 * MiB));
  driver.wait_all();
  const Bytes zeros(4 * MiB);
  EXPECT_EQ(driver.records().back().result, XXH3_64bits(zeros.data(), zeros.size()));
}

// C3: initial bytes hold off the switchover, dirty bytes count as pending; both must be what reads return.
TEST(Migration, EstimatesAreWhatReadsReturn) {
  GuestRam ram;
  Rig source(ram);
  Driver driver(ram, source);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, MiB, 2 * MiB, 0x11));
  driver.wait_all();
  EXPECT_FALSE(source.model->precopy_info());
  source.walk({DeviceState::pre_copy});
  const auto first = source.model->precopy_info().value();
  EXPECT_GT(first.initial_bytes, 0u);
  Bytes stream;
  read_chunk(source, stream, first.initial_bytes - 1);
  EXPECT_EQ(source.model->precopy_info()->initial_bytes, 1u);
  read_chunk(source, stream, 1);
  EXPECT_EQ(source.model->precopy_info()->initial_bytes, 0u);
  EXPECT_EQ(source.model->precopy_info()->dirty_bytes, first.dirty_bytes);
  read_all(source, stream);
  const auto rest = stream.size() - first.initial_bytes;
  EXPECT_NEAR(static_cast<double>(rest), static_cast<double>(first.dirty_bytes), 500.0);
  EXPECT_EQ(source.model->precopy_info()->dirty_bytes, 0u);

  driver.submit(job(2, Operation::fill, 0, 5000, 10, 0x22));
  driver.wait_all();
  EXPECT_GE(source.model->precopy_info()->dirty_bytes, kPageSize);
  EXPECT_LT(source.model->precopy_info()->dirty_bytes, 2 * kPageSize);

  source.walk({DeviceState::pre_copy_p2p});
  const auto estimate = source.model->stop_copy_size().value();
  source.walk({DeviceState::stop_copy});
  Bytes stopped;
  read_all(source, stopped);
  EXPECT_NEAR(static_cast<double>(stopped.size()), static_cast<double>(estimate), 500.0);
  EXPECT_EQ(source.model->stop_copy_size().value(), 0u);
}

TEST(Migration, WithoutASessionTheEstimateIsTheWholeState) {
  GuestRam ram;
  Rig source(ram);
  Driver driver(ram, source);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 0, 2 * MiB, 0x11));
  driver.wait_all();
  const auto estimate = source.model->stop_copy_size().value();
  EXPECT_NEAR(static_cast<double>(save(source).size()), static_cast<double>(estimate), 500.0);
}

TEST(Migration, CancelledPrecopyStartsAfreshNextTime) {
  GuestRam ram;
  Rig source(ram);
  Rig destination(ram);
  Driver driver(ram, source);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 0, MiB, 0x1234));
  driver.wait_all();
  Bytes dropped;
  source.walk({DeviceState::pre_copy});
  read_chunk(source, dropped, 500'000);
  source.walk({DeviceState::running});
  EXPECT_FALSE(source.model->migration_read(dropped)) << "no session";
  EXPECT_FALSE(source.model->precopy_info());

  const Bytes stream = save(source);
  ASSERT_TRUE(load(destination, stream));
  driver.move_to(destination);
  start(destination);
  driver.submit(job(2, Operation::hash, 0, 0, MiB));
  driver.wait_all();
  Bytes expected(MiB);
  for (std::size_t i = 0; i < expected.size(); i += 8)
    store_le<std::uint64_t>(&expected[i], 0x1234);
  EXPECT_EQ(driver.records().back().result, XXH3_64bits(expected.data(), expected.size()));
}

TEST(Migration, ADeviceThatWasLoadedCanBeMigratedOn) {
  const auto seed = handover::test::random_seed();
  GuestRam ram;
  std::vector<std::unique_ptr<Rig>> rigs;
  rigs.push_back(std::make_unique<Rig>(ram));
  Driver driver(ram, *rigs.back());
  JobOracle oracle(seed, ram, 4 * MiB);
  driver.enable();
  for (int hop = 0; hop < 4; ++hop) {
    for (int i = 0; i < 30; ++i)
      driver.submit(oracle.next());
    const Bytes stream = save(*rigs.back());
    rigs.push_back(std::make_unique<Rig>(ram));
    ASSERT_TRUE(load(*rigs.back(), stream));
    driver.move_to(*rigs.back());
    start(*rigs.back());
  }
  driver.submit(oracle.hash_all());
  driver.wait_all();
  oracle.expect_records(driver.records());
}

TEST(Migration, ReadsAreFilledCompletely) {
  GuestRam ram;
  Rig source(ram);
  Driver driver(ram, source);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 0, 4 * MiB, 0x1234));
  driver.wait_all();
  source.walk({DeviceState::pre_copy});
  std::vector<std::byte> chunk(MiB);
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(source.model->migration_read(chunk).value(), MiB);
  EXPECT_LT(source.model->migration_read(chunk).value(), MiB);
}

}  // namespace
}  // namespace handover::accelerator::test
