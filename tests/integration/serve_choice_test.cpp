// What `handover serve accelerator` was told of how its device migrates, and what then comes of it.

#include <chrono>

#include "integration/served_accelerator.h"

namespace handover::test {
namespace {

// The chunks of a v1 device are kept as they were cut; device memory arrives equal, the guest's work goes on.
void migrate_with_jobs_by_v1(const std::vector<std::string>& source_options, bool pre_copy) {
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  Served source(folder, *memory, "source", "16M", source_options);
  Served destination(folder, *memory, "destination", "16M", {"--migration", "v1"});
  source.connect();
  source.wire_up(false);
  Guest guest(*memory, test_seed());
  guest.enable(source);
  guest.work(20);
  auto* from = source.device->migration();
  ASSERT_TRUE(from && from->keeps_chunks());
  std::vector<Bytes> chunks;
  // True while there may be more at once.
  const auto take_chunk = [&] {
    Bytes chunk(from->preferred_chunk());
    const auto read = check(from->read(chunk));
    chunk.resize(read.bytes);
    if (read.bytes > 0) chunks.push_back(std::move(chunk));
    return read.kind == vfio::StateRead::Kind::data;
  };
  if (pre_copy) {
    source.go(DeviceState::pre_copy);
    for (int round = 0; round < 6; ++round) {
      guest.work(8);
      for (int i = 0; i < 3 && take_chunk(); ++i) {
      }
    }
    guest.work(12);
  }
  source.go(DeviceState::stop_copy);
  while (take_chunk()) {
  }
  source.go(DeviceState::stop);
  const std::uint64_t done = source.read(reg::kJobsDone, 8);
  source.device.reset();

  destination.connect();
  destination.wire_up(false);
  destination.go(DeviceState::resuming);
  for (const auto& chunk : chunks)
    check(destination.device->migration()->write(chunk));
  destination.go(DeviceState::stop);
  EXPECT_EQ(destination.read(reg::kJobsDone, 8), done);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(destination.interrupt.get(), &one, sizeof one), 8);
  guest.move_to(destination);
  destination.go(DeviceState::running);
  guest.work(8);
  guest.hash_everything();
  guest.wait_all();
  destination.go(DeviceState::stop);
  EXPECT_EQ(destination.read(reg::kJobsDone, 8), guest.submitted());
}

TEST(ServeChoice, MigratesAWorkingDeviceByProtocolV1) {
  migrate_with_jobs_by_v1({"--migration", "v1"}, true);
}

TEST(ServeChoice, MigratesADeviceByProtocolV1WithNothingInItsPreCopy) {
  migrate_with_jobs_by_v1({"--migration", "v1", "--pre-copy", "off"}, true);
}

TEST(ServeChoice, MigratesADeviceByProtocolV1InStopCopyAlone) {
  migrate_with_jobs_by_v1({"--migration", "v1"}, false);
}

TEST(ServeChoice, ADeviceOffersWhatTheCommandLineSaysAndTheReadyLineSaysIt) {
  struct {
    std::vector<std::string> options;
    std::string said;
    std::uint64_t features;
    bool log;
  } const cases[] = {
      {{}, "migration v2, pre-copy, P2P, DMA log", 7, true},
      {{"--pre-copy", "off"}, "migration v2, no pre-copy, P2P, DMA log", 3, true},
      {{"--p2p", "off", "--dma-log", "off"}, "migration v2, pre-copy, no P2P, no DMA log", 5, false},
      {{"--pre-copy", "off", "--p2p", "off", "--load-cost", "1000us"},
       "migration v2, no pre-copy, no P2P, load cost 1ms, DMA log",
       1,
       true},
      {{"--dma-log-ranges", "8"}, "migration v2, pre-copy, P2P, DMA log of at most 8 ranges", 7, true},
      {{"--dma-log-ranges", "8", "--dma-log-bytes", "64G"},
       "migration v2, pre-copy, P2P, DMA log of at most 8 ranges and 64G",
       7,
       true},
      {{"--migration", "v1", "--p2p", "off"}, "migration v1, pre-copy, DMA log", 5, true},
      {{"--migration", "none", "--pre-copy", "off"}, "no migration, DMA log", 0, true},
  };
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  for (const auto& each : cases) {
    Served served(folder, *memory, "device", "16M", each.options);
    EXPECT_EQ(served.said(), each.said);
    served.connect();
    auto* migration = served.device->migration();
    EXPECT_EQ(migration ? migration->features() : 0, each.features) << each.said;
    EXPECT_EQ(served.device->dma_log() != nullptr, each.log) << each.said;
    if (!migration) {
      EXPECT_NE(served.device->migration_blocker().find("does not support migration"), std::string::npos);
    }
  }
}

// Not by blocking: the timer holds back the answer, and nothing else of the process.
TEST(ServeChoice, ALoadCostDelaysTheEndOfALoadByAtLeastThat) {
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  Served source(folder, *memory, "source");
  Served destination(folder, *memory, "destination", "16M", {"--load-cost", "300ms"});
  source.connect();
  destination.connect();
  source.go(DeviceState::stop_copy);
  Bytes stream;
  while (source.read_chunk(stream, MiB)) {
  }
  destination.go(DeviceState::resuming);
  check(destination.device->migration()->write(stream));
  const auto start = std::chrono::steady_clock::now();
  destination.go(DeviceState::stop);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(300));
  destination.go(DeviceState::resuming);
  EXPECT_FALSE(destination.device->migration()->set_state(DeviceState::stop)) << "a refusal costs nothing";
}

}  // namespace
}  // namespace handover::test
