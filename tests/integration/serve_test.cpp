// `handover serve accelerator` in processes of its own, driven through the vfio-user client.

#include <csignal>

#include "integration/served_accelerator.h"

namespace handover::test {
namespace {

void migrate_with_jobs(bool by_message) {
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  Served source(folder, *memory, "source");
  Served destination(folder, *memory, "destination");
  source.connect();
  source.wire_up(by_message);
  Guest guest(*memory, test_seed());
  guest.enable(source);
  guest.work(20);

  const std::uint64_t features = source.device->migration()->features();
  EXPECT_EQ(features, vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy);
  source.go(DeviceState::pre_copy);
  Bytes stream;
  for (int round = 0; round < 6; ++round) {
    guest.work(8);
    for (int i = 0; i < 5 && source.read_chunk(stream, 1 + guest.random()() % MiB); ++i) {
    }
  }
  guest.work(12);
  source.go(DeviceState::pre_copy_p2p);
  source.go(DeviceState::stop_copy);
  while (source.read_chunk(stream, MiB)) {
  }
  source.go(DeviceState::stop);
  const std::uint64_t done = source.read(reg::kJobsDone, 8);
  // What was raised before the stop is in the source's eventfd: the machine carries it over.
  source.device.reset();

  destination.connect();
  destination.wire_up(by_message);
  destination.go(DeviceState::resuming);
  for (std::size_t at = 0; at < stream.size();) {
    const auto part = std::min<std::size_t>(stream.size() - at, 1 + guest.random()() % MiB);
    check(destination.device->migration()->write(std::span(stream).subspan(at, part)));
    at += part;
  }
  destination.go(DeviceState::stop);
  EXPECT_EQ(destination.read(reg::kJobsDone, 8), done);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(destination.interrupt.get(), &one, sizeof one), 8);
  guest.move_to(destination);
  destination.go(DeviceState::running);
  guest.work(8);
  guest.hash_everything();
  guest.wait_all();
  destination.go(DeviceState::running_p2p);
  EXPECT_EQ(destination.read(reg::kCompleted), guest.submitted()) << "none lost, none twice";
  EXPECT_EQ(destination.read(reg::kJobsDone, 8), guest.submitted());
  destination.device.reset();
  EXPECT_EQ(source.process().terminate(), 0);
  EXPECT_EQ(destination.process().terminate(), 0);
}

TEST(Serve, MigratesAWorkingDeviceFromProcessToProcess) {
  migrate_with_jobs(false);
}

TEST(Serve, MigratesADeviceWhoseDmaGoesByMessage) {
  migrate_with_jobs(true);
}

TEST(Serve, AClientThatComesBackFindsTheDeviceAsItWas) {
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  Served served(folder, *memory, "device");
  Guest guest(*memory, test_seed());
  for (int visit = 0; visit < 3; ++visit) {
    served.connect();
    served.wire_up(visit == 1);
    if (visit == 0) guest.enable(served);
    guest.work(10);
    guest.hash_everything();
    guest.wait_all();
    served.device.reset();
  }
}

TEST(Serve, AClientThatGoesAwayAmidAMigrationLeavesADeviceThatRuns) {
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  Served served(folder, *memory, "device");
  Guest guest(*memory, test_seed());
  for (const auto state : {DeviceState::pre_copy, DeviceState::pre_copy_p2p, DeviceState::stop_copy}) {
    served.connect();
    served.wire_up(false);
    if (guest.submitted() == 0) guest.enable(served);
    guest.move_to(served);
    if (check(served.device->migration()->state()) != DeviceState::running) served.go(DeviceState::running);
    guest.work(10);
    guest.hash_everything();
    guest.wait_all();
    served.go(state);
    served.device.reset();
  }
}

TEST(Serve, AnotherMemorySizeIsRefusedAndNamedInTheServersLog) {
  TestFolder folder;
  const auto memory = check(GuestMemory::create(kGuestSize));
  Served source(folder, *memory, "source", "16M");
  Served destination(folder, *memory, "destination", "8M");
  source.connect();
  destination.connect();
  source.go(DeviceState::stop_copy);
  Bytes stream;
  while (source.read_chunk(stream, MiB)) {
  }
  destination.go(DeviceState::resuming);
  const auto written = destination.device->migration()->write(stream);
  EXPECT_TRUE(!written || !destination.device->migration()->set_state(DeviceState::stop));
  EXPECT_EQ(check(destination.device->migration()->state()), DeviceState::resuming);
  check(destination.device->reset());
  EXPECT_EQ(check(destination.device->migration()->state()), DeviceState::running);
  EXPECT_NE(folder.text("destination.log").find("device memory is 8 MiB here and 16 MiB in the stream"),
            std::string::npos)
      << folder.text("destination.log");
}

TEST(Serve, SizesAreTakenAsPeopleTypeThem) {
  TestFolder folder;
  const auto ready = [&](const std::string& size) {
    auto process = check(cli::ChildProcess::start(
        {HANDOVER_BINARY, "serve", "accelerator", "--socket", folder.file("x.sock"), "--memory", size},
        {.name = size, .stderr_path = folder.file("size.log")}));
    if (const auto line = process.read_line({}, patience())) return line->substr(0, line->find(" on "));
    return fmt::format("exit code {}", check(process.wait({}, patience())));
  };
  for (const char* size : {"1G", "1g", "1024M", "1GiB", "1048576K", "1073741824", "1073741824B"})
    EXPECT_EQ(ready(size), "serving accelerator (1 GiB)") << size;
  for (const char* size :
       {"17G", "1023K", "1048577", "1.5G", "1X", "G", "1iB", "", "0x1000000", "99999999999T"}) {
    EXPECT_EQ(ready(size), "exit code 2") << size;
    EXPECT_NE(folder.text("size.log").find("from 1M to 16G"), std::string::npos) << folder.text("size.log");
  }
}

TEST(Serve, EndsCleanlyOnEitherSignalAlsoWithAClient) {
  for (const int number : {SIGTERM, SIGINT}) {
    TestFolder folder;
    const auto memory = check(GuestMemory::create(kGuestSize));
    Served served(folder, *memory, "device");
    served.connect();
    served.process().signal(number);
    EXPECT_EQ(check(served.process().wait({}, patience())), 0);
    EXPECT_NE(::access(served.socket().c_str(), F_OK), 0);
    EXPECT_EQ(folder.text("device.log"), "");
  }
}

}  // namespace
}  // namespace handover::test
