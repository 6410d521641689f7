#include "handover/vfio_user/client.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <random>

#include "unit/memory/random_seed.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using vfio::DeviceState;
using vfio::StateRead;

class ClientAndServer : public ServedToy {
 protected:
  void SetUp() override {
    serve();
    memory_ = std::move(*GuestMemory::create(16 * MiB));
    device_ = connect_client();
  }
  void TearDown() override {
    device_.reset();
    ServedToy::TearDown();
  }
  std::unique_ptr<vfio::Device> connect_client() {
    auto device = vfio_user::connect({"toy0", path_, kPatience}, *memory_, cancel_.token());
    EXPECT_TRUE(device) << device.error().to_string();
    return device ? std::move(*device) : nullptr;
  }
  Status map_ram(bool with_fd = true) {
    return device_->dma_map(
        {Iova{0}, memory_->size(), 3, with_fd ? memory_->blocks()[0]->fd() : -1, 0, nullptr});
  }
  // One DMA command of the toy, to its end.
  std::uint32_t dma(std::uint32_t command, std::uint64_t address, std::uint32_t length,
                    std::uint8_t pattern = 0) {
    std::byte setup[12] = {};
    store_le<std::uint64_t>(setup, address);
    store_le<std::uint32_t>(setup + 8, length);
    const std::byte fill[4] = {static_cast<std::byte>(pattern)};
    std::byte go[4] = {static_cast<std::byte>(command)};
    EXPECT_TRUE(device_->region_write(0, 0, setup));
    EXPECT_TRUE(device_->region_write(0, 0x14, fill));
    EXPECT_TRUE(device_->region_write(0, 0x0c, go));
    std::uint32_t result = 1;
    EXPECT_TRUE(eventually([&] {
      std::byte bytes[4];
      if (!device_->region_read(0, 0x10, bytes)) return true;
      result = load_le<std::uint32_t>(bytes);
      return result != 1;
    }));
    return result;
  }
  std::vector<std::byte> ram(std::uint64_t at, std::size_t size) {
    std::vector<std::byte> bytes(size);
    EXPECT_TRUE(memory_->read(Gpa{at}, bytes));
    return bytes;
  }

  CancelSource cancel_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<vfio::Device> device_;
};

TEST_F(ClientAndServer, DeviceIsReadAsItsModelSaysIt) {
  EXPECT_EQ(device_->id(), "toy0");
  EXPECT_EQ(device_->info().flags, vfio::kDeviceFlagReset | vfio::kDeviceFlagPci);
  ASSERT_EQ(device_->info().num_regions, vfio::kPciRegions);
  EXPECT_EQ(device_->region(0).size, ToyDevice::kBar0);
  EXPECT_EQ(device_->region(1).size, 0u);
  EXPECT_EQ(device_->region(2).flags, vfio::kRegionRead | vfio::kRegionWrite | vfio::kRegionMmap);
  ASSERT_EQ(device_->region(2).areas.size(), 2u);
  EXPECT_EQ(device_->region(2).areas[1].offset, 0x3000u);
  EXPECT_EQ(device_->irq(vfio::kIrqMsix).count, 4u);
  ASSERT_NE(device_->migration(), nullptr);
  EXPECT_EQ(device_->migration()->features(), 7u);
  EXPECT_EQ(device_->migration()->preferred_chunk(), 1 * MiB);
  EXPECT_NE(device_->dma_log(), nullptr);
  EXPECT_TRUE(device_->migration_blocker().empty());
}

TEST_F(ClientAndServer, RegionsAreReadWrittenAndMapped) {
  const std::vector<std::byte> bytes(64, std::byte{0x42});
  ASSERT_TRUE(device_->region_write(0, 0x100, bytes));
  std::vector<std::byte> back(64);
  ASSERT_TRUE(device_->region_read(0, 0x100, back));
  EXPECT_EQ(back, bytes);

  auto area = device_->map_area(2, {0x3000, 0x1000});
  ASSERT_TRUE(area) << area.error().to_string();
  area->data()[5] = std::byte{0x77};
  std::byte seen[1];
  ASSERT_TRUE(device_->region_read(2, 0x3005, seen));
  EXPECT_EQ(seen[0], std::byte{0x77});

  EXPECT_FALSE(device_->map_area(2, {0x2000, 0x1000})) << "not a mappable area";
  EXPECT_FALSE(device_->map_area(2, {0x1000, 0x2000})) << "more than the area";
  EXPECT_FALSE(device_->map_area(2, {0x1000, 0x800})) << "half a page";
  EXPECT_FALSE(device_->map_area(0, {0, 0x1000})) << "no memory";
  EXPECT_FALSE(device_->region_read(0, ToyDevice::kBar0, seen)) << "beyond the end";
  EXPECT_FALSE(device_->region_write(vfio::kRegionRom, 0, seen)) << "read only, refused by the server";
  EXPECT_FALSE(device_->lost()) << "a refusal is no loss";
}

TEST_F(ClientAndServer, DmaReachesMemoryByDescriptorAndByMessage) {
  for (const bool with_fd : {true, false}) {
    ASSERT_TRUE(map_ram(with_fd));
    EXPECT_EQ(dma(1, 0x10ff0, 0x30000, with_fd ? 0xa5 : 0x5a), 2u);
    EXPECT_EQ(ram(0x10ff0, 0x30000), std::vector(0x30000, std::byte(with_fd ? 0xa5 : 0x5a)));
    EXPECT_EQ(ram(0x40ff0, 1)[0], std::byte{0});
    const std::vector<std::byte> there(200000, std::byte{0x11});
    ASSERT_TRUE(memory_->write(Gpa{0x100000}, there));
    EXPECT_EQ(dma(2, 0x100000, 200000), 2u);
    EXPECT_EQ(toy_->last_read(), there);
    EXPECT_EQ(dma(1, memory_->size() - 8, 16), 3u) << "partly beyond the mapping";
    ASSERT_TRUE(device_->dma_unmap({Iova{0}, memory_->size()}));
    EXPECT_EQ(dma(1, 0x10000, 16), 3u) << "not mapped any more";
  }
}

TEST_F(ClientAndServer, DmaByMessageIsLoggedByThisProcess) {
  ASSERT_TRUE(map_ram(false));
  memory_->start_logging();
  EXPECT_EQ(dma(1, 0x5000, 0x2000, 1), 2u);
  memory_->stop_logging();
  EXPECT_TRUE(memory_->blocks()[0]->written().test(5));
  EXPECT_TRUE(memory_->blocks()[0]->written().test(6));
  EXPECT_EQ(memory_->blocks()[0]->written().count(), 2u);
}

TEST_F(ClientAndServer, InterruptsArriveAtTheEventfdsInstalled) {
  ASSERT_TRUE(map_ram());
  const auto first = make_eventfd(), second = make_eventfd();
  const int fds[] = {first.get(), -1, second.get()};
  ASSERT_TRUE(device_->set_irq_eventfds(vfio::kIrqMsix, fds));
  EXPECT_EQ(dma(1, 0, 16), 2u);
  EXPECT_TRUE(eventually([&] { return take_events(first) == 1; }));
  toy_->bus().trigger_irq(vfio::kIrqMsix, 2);
  toy_->bus().trigger_irq(vfio::kIrqMsix, 1);
  toy_->bus().trigger_irq(vfio::kIrqMsix, 99);
  EXPECT_EQ(take_events(second), 1u);
  ASSERT_TRUE(device_->set_irq_eventfds(vfio::kIrqMsix, {}));
  toy_->bus().trigger_irq(vfio::kIrqMsix, 2);
  EXPECT_EQ(take_events(second), 0u);
  const std::vector<int> five(5, first.get());
  EXPECT_FALSE(device_->set_irq_eventfds(vfio::kIrqMsix, five)) << "more than the device has";
}

TEST_F(ClientAndServer, WholeMigrationMovesTheStateToASecondDevice) {
  auto* source = device_->migration();
  ASSERT_TRUE(source->set_state(DeviceState::pre_copy));
  const auto info = source->precopy_info();
  ASSERT_TRUE(info && *info);
  EXPECT_EQ((*info)->initial_bytes, ToyDevice::kStateSize + 8);
  EXPECT_EQ(**source->stop_copy_size(), ToyDevice::kStateSize + 8);

  std::vector<std::byte> stream;
  const auto drain = [&](StateRead::Kind until) {
    std::vector<std::byte> buffer(40000);
    for (;;) {
      const auto read = source->read(buffer);
      ASSERT_TRUE(read) << read.error().to_string();
      stream.insert(stream.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(read->bytes));
      if (read->kind == StateRead::Kind::data) continue;
      ASSERT_EQ(read->kind, until);
      return;
    }
  };
  drain(StateRead::Kind::nothing_now);
  drain(StateRead::Kind::nothing_now);
  ASSERT_TRUE(source->set_state(DeviceState::pre_copy_p2p));
  ASSERT_TRUE(source->set_state(DeviceState::stop_copy));
  drain(StateRead::Kind::end);
  drain(StateRead::Kind::end);
  EXPECT_EQ(stream.size(), 2 * (ToyDevice::kStateSize + 8));
  ASSERT_TRUE(source->set_state(DeviceState::stop));

  ToyDevice other;
  other.set_state({});
  EventLoop loop("other");
  loop.start_thread();
  {
    auto server = Server::create(loop, other, {path_ + "2"});
    ASSERT_TRUE(server);
    auto destination = vfio_user::connect({"toy1", path_ + "2", kPatience}, *memory_, cancel_.token());
    ASSERT_TRUE(destination) << destination.error().to_string();
    auto* load = (*destination)->migration();
    ASSERT_TRUE(load->set_state(DeviceState::resuming));
    ASSERT_TRUE(load->write(std::span(stream).first(70001)));
    ASSERT_TRUE(load->write(std::span(stream).subspan(70001)));
    ASSERT_TRUE(load->set_state(DeviceState::running_p2p));
    ASSERT_TRUE(load->set_state(DeviceState::running));
    EXPECT_EQ(other.state(), toy_->state());
  }
}

TEST_F(ClientAndServer, TruncatedStateIsRefusedAndTheStateIsKnownAfterwards) {
  auto* migration = device_->migration();
  ASSERT_TRUE(migration->set_state(DeviceState::resuming));
  const std::byte few[20] = {std::byte{200}};
  ASSERT_TRUE(migration->write(few));
  const auto refused = migration->set_state(DeviceState::running);
  ASSERT_FALSE(refused);
  EXPECT_EQ(*migration->state(), DeviceState::resuming);
  EXPECT_TRUE(device_->reset());
  EXPECT_EQ(*migration->state(), DeviceState::running);
}

TEST_F(ClientAndServer, DmaLogReportsEveryPageWrittenOnceAndKeepsTheRest) {
  for (const bool with_fd : {true, false}) {
    ASSERT_TRUE(map_ram(with_fd));
    auto* log = device_->dma_log();
    ASSERT_TRUE(log->start(4096, {}));
    EXPECT_EQ(dma(1, 0x1000, 16), 2u);
    EXPECT_EQ(dma(1, 0x5fff, 2), 2u);
    EXPECT_EQ(dma(1, 0x800000, 1), 2u);
    const auto first = log->report({Iova{0}, 0x10000});
    ASSERT_TRUE(first) << first.error().to_string();
    EXPECT_EQ((*first)[0], std::byte{0x62});
    EXPECT_EQ(load_le<std::uint64_t>(first->data()), 0x62u);
    const auto again = log->report({Iova{0}, 0x10000});
    EXPECT_EQ(load_le<std::uint64_t>(again->data()), 0u);
    const auto rest = log->report({Iova{0x10000}, memory_->size() - 0x10000});
    ASSERT_TRUE(rest);
    const auto page = (0x800000 - 0x10000) / 4096;
    EXPECT_EQ((*rest)[page / 8], static_cast<std::byte>(1 << page % 8));
    ASSERT_TRUE(log->stop());
    ASSERT_TRUE(device_->dma_unmap({Iova{0}, memory_->size()}));
  }
}

TEST_F(ClientAndServer, BitsOfARangeThatIsUnmappedWhileLoggingAreKeptUntilReported) {
  ASSERT_TRUE(map_ram());
  auto* log = device_->dma_log();
  ASSERT_TRUE(log->start(4096, {}));
  EXPECT_EQ(dma(1, 0x3000, 16), 2u);
  ASSERT_TRUE(device_->dma_unmap({Iova{0}, memory_->size()}));
  const auto report = log->report({Iova{0}, 0x10000});
  ASSERT_TRUE(report) << report.error().to_string();
  EXPECT_EQ(load_le<std::uint64_t>(report->data()), 0x8u);
}

/// Memory of another device's process.
struct PeerMemory {
  PeerMemory() {
    EXPECT_EQ(::ftruncate(file.get(), kBytes), 0);
    bytes = std::make_shared<const Mapping>(std::move(*Mapping::shared(file.get(), 0, kBytes, 3)));
  }
  vfio::DmaMapping at(Iova iova, bool with_fd) const {
    return {.iova = iova,
            .size = kBytes,
            .fd = with_fd ? file.get() : -1,
            .offset = 0,
            .host = bytes->data(),
            .keep = bytes,
            .peer = true};
  }
  static constexpr std::uint64_t kBytes = 0x4000;
  UniqueFd file{::memfd_create("peer", MFD_CLOEXEC)};
  std::shared_ptr<const Mapping> bytes;
};
constexpr std::uint64_t kPeerAt = 0xc0000000;

TEST_F(ClientAndServer, MemoryOfAPeerIsReachedByDescriptorAndByMessage) {
  ASSERT_TRUE(map_ram());
  for (const bool with_fd : {true, false}) {
    PeerMemory peer;
    ASSERT_TRUE(device_->dma_map(peer.at(Iova{kPeerAt}, with_fd)));
    EXPECT_EQ(dma(1, kPeerAt + 0x1010, 0x2000, 0x3c), 2u);
    EXPECT_EQ(peer.bytes->data()[0x100f], std::byte{0});
    EXPECT_EQ(peer.bytes->data()[0x1010], std::byte{0x3c});
    EXPECT_EQ(peer.bytes->data()[0x300f], std::byte{0x3c});
    EXPECT_EQ(dma(2, kPeerAt + 0x1010, 0x2000), 2u);
    EXPECT_EQ(toy_->last_read(), std::vector(0x2000, std::byte{0x3c}));
    EXPECT_EQ(dma(1, kPeerAt + PeerMemory::kBytes - 8, 16), 3u) << "partly beyond it";
    // Its process cuts the file short: an answer, and not the end of this process.
    ASSERT_EQ(::ftruncate(peer.file.get(), 0x1000), 0);
    EXPECT_EQ(dma(1, kPeerAt + 0x2000, 16), 3u);
    EXPECT_EQ(dma(1, kPeerAt + 0x800, 16), 2u);
    ASSERT_TRUE(device_->dma_unmap({Iova{kPeerAt}, PeerMemory::kBytes}));
    EXPECT_EQ(dma(1, kPeerAt + 0x800, 16), 3u) << "not mapped any more";
    EXPECT_EQ(peer.bytes.use_count(), 1) << "and not kept";
  }
}

TEST_F(ClientAndServer, MemoryOfAPeerIsInNoDirtyLog) {
  ASSERT_TRUE(map_ram());
  auto* log = device_->dma_log();
  const vfio::IovaRange ranges[] = {{Iova{0}, memory_->size()}};
  ASSERT_TRUE(log->start(4096, ranges));
  for (const bool with_fd : {true, false}) {
    PeerMemory peer;
    ASSERT_TRUE(device_->dma_map(peer.at(Iova{kPeerAt}, with_fd)));
    EXPECT_EQ(dma(1, kPeerAt + 0x1000, 16), 2u);
    EXPECT_EQ(dma(1, 0x3000, 16), 2u);
    ASSERT_TRUE(device_->dma_unmap({Iova{kPeerAt}, PeerMemory::kBytes}));
    const auto report = log->report({Iova{0}, memory_->size()});
    ASSERT_TRUE(report) << report.error().to_string();
    EXPECT_EQ(load_le<std::uint64_t>(report->data()), 0x8u);
    EXPECT_EQ(std::ranges::count(*report, std::byte{0}), static_cast<std::ptrdiff_t>(report->size()) - 1);
  }
  EXPECT_EQ(memory_->blocks()[0]->written().count(), 0u);
}

TEST_F(ClientAndServer, MappableAreasComeWithTheirFile) {
  const auto file = device_->area_file(2, {0x3000, 0x1000});
  ASSERT_GE(file.fd, 0);
  auto seen = Mapping::shared(file.fd, file.offset, 0x1000, 3);
  ASSERT_TRUE(seen);
  seen->data()[7] = std::byte{0x21};
  std::byte back[1];
  ASSERT_TRUE(device_->region_read(2, 0x3007, back));
  EXPECT_EQ(back[0], std::byte{0x21});
  EXPECT_EQ(device_->area_file(0, {0, 0x1000}).fd, -1) << "registers are no memory";
}

TEST_F(ClientAndServer, ManyThreadsMayAccessRegionsAtOnceWhileTheDeviceDoesDmaByMessage) {
  ASSERT_TRUE(map_ram(false));
  std::atomic<bool> stop{false};
  toy_->post([&] {
    const std::vector<std::byte> data(100000, std::byte{1});
    while (!stop)
      EXPECT_TRUE(toy_->bus().dma_write(Iova{0x1000}, data));
  });
  std::vector<std::thread> vcpus;
  for (int i = 0; i < 4; ++i)
    vcpus.emplace_back([&, i] {
      const auto offset = static_cast<std::uint64_t>(0x100 + i * 8);
      for (int round = 0; round < 300; ++round) {
        std::byte value[8] = {static_cast<std::byte>(round), static_cast<std::byte>(i)};
        std::byte back[8];
        ASSERT_TRUE(device_->region_write(0, offset, value));
        ASSERT_TRUE(device_->region_read(0, offset, back));
        ASSERT_EQ(std::memcmp(value, back, 8), 0);
      }
    });
  for (auto& vcpu : vcpus)
    vcpu.join();
  stop = true;
  EXPECT_TRUE(device_->reset()) << "waits until the device's thread is free";
}

TEST_F(ClientAndServer, DeviceIsLostWhenItsServerEnds) {
  std::promise<std::string> reason;
  device_->on_lost([&](std::string why) { reason.set_value(std::move(why)); });
  server_.reset();
  const auto why = reason.get_future().get();
  EXPECT_NE(why.find("toy0"), why.npos) << why;
  EXPECT_NE(why.find(path_), why.npos) << why;
  EXPECT_TRUE(device_->lost());
  std::byte byte[1];
  const auto read = device_->region_read(0, 0, byte);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Errc::closed);
  bool told = false;
  device_->on_lost([&](std::string) { told = true; });
  EXPECT_TRUE(told) << "too late is told at once";
}

TEST_F(ClientAndServer, CancelMakesWaitingCallsReturn) {
  toy_->hold();
  std::thread canceller([&] {
    EXPECT_TRUE(eventually([&] { return toy_->holds_something(); }));
    cancel_.cancel("enough");
  });
  const auto reset = device_->reset();
  canceller.join();
  ASSERT_FALSE(reset);
  EXPECT_TRUE(eventually([&] { return device_->lost(); }));
}

// In stop-copy the client reads ahead; nobody may notice.
TEST_F(ClientAndServer, StateIsTheSameInBuffersOfAnySizeAndAfterASessionThatWasLeft) {
  const auto seed = handover::test::random_seed();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  auto* migration = device_->migration();
  NativeWriter record;
  record.u64(ToyDevice::kStateSize);
  record.bytes(toy_->state());
  const std::vector<std::byte> expected(record.view().begin(), record.view().end());
  for (int round = 0; round < 30; ++round) {
    ASSERT_TRUE(migration->set_state(DeviceState::stop_copy));
    std::vector<std::byte> stream;
    // Every third session is left in the middle, and once by a reset.
    const auto leave_after = round % 3 == 0 ? random() % 6 : ~0ULL;
    for (std::uint64_t reads = 0; reads < leave_after; ++reads) {
      std::vector<std::byte> buffer(1 + random() % (random() % 2 ? 100 : 60000));
      const auto read = migration->read(buffer);
      ASSERT_TRUE(read) << read.error().to_string();
      stream.insert(stream.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(read->bytes));
      if (read->kind == StateRead::Kind::data) continue;
      ASSERT_EQ(read->kind, StateRead::Kind::end);
      ASSERT_EQ(stream, expected);
      break;
    }
    if (round % 6 == 0) {
      ASSERT_TRUE(device_->reset());
    } else {
      ASSERT_TRUE(migration->set_state(DeviceState::running));
    }
  }
  // And the device may go while a read is under way.
  ASSERT_TRUE(migration->set_state(DeviceState::stop_copy));
  std::byte few[100];
  ASSERT_TRUE(migration->read(few));
}

TEST_F(ClientAndServer, AWriteThatTheDeviceRefusesIsToldByTheNextCallAndForgottenByAReset) {
  auto* migration = device_->migration();
  const std::vector<std::byte> chunk(1000, std::byte{1});
  toy_->fail_migration_write(ENOSPC);
  for (const bool by_state : {true, false}) {
    ASSERT_TRUE(migration->set_state(DeviceState::resuming));
    (void)migration->write(chunk);
    const auto told = by_state ? migration->set_state(DeviceState::stop) : migration->write(chunk);
    ASSERT_FALSE(told);
    EXPECT_EQ(told.error().sys_errno(), ENOSPC);
    EXPECT_EQ(*migration->state(), DeviceState::resuming);
    ASSERT_TRUE(device_->reset());
  }
  ASSERT_TRUE(migration->set_state(DeviceState::resuming));
  (void)migration->write(chunk);
  ASSERT_TRUE(device_->reset());
  EXPECT_TRUE(migration->set_state(DeviceState::pre_copy)) << "what was before the reset is forgotten";
  EXPECT_FALSE(device_->lost());
}

TEST_F(ClientAndServer, DeviceLeftInAnotherStateIsRepairedAtConnect) {
  ASSERT_TRUE(device_->migration()->set_state(DeviceState::stop));
  device_.reset();
  device_ = connect_client();
  ASSERT_NE(device_, nullptr);
  EXPECT_EQ(*device_->migration()->state(), DeviceState::running);
}

TEST(Connect, MissingSocketSaysWhatToDo) {
  auto memory = std::move(*GuestMemory::create(1 * MiB));
  const auto device = vfio_user::connect({"accel0", "/nonexistent/x.sock", kPatience}, *memory, {});
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().to_string(),
            "cannot connect device `accel0`: no socket at /nonexistent/x.sock; start the device server first "
            "(handover serve ...)");
}

}  // namespace
}  // namespace handover::vfio_user
