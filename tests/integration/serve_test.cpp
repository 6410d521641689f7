// `handover serve accelerator` in processes of its own, driven through the vfio-user client.

#include <poll.h>
#include <sys/eventfd.h>
#include <xxhash.h>

#include <csignal>
#include <random>

#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"
#include "handover/vfio_user/client.h"
#include "integration/two_machines.h"

namespace handover::test {
namespace {

using namespace accelerator;
using vfio::DeviceState;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kGuestSize = 8 * MiB;
constexpr std::uint64_t kDeviceSize = 16 * MiB;
constexpr std::uint64_t kCompletions = 0x2000;
constexpr std::uint64_t kData = 0x10000;
constexpr std::uint32_t kEntries = 64;

void check(const Status& status) {
  if (!status) throw std::runtime_error(status.error().to_string());
}
template <class T>
T check(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().to_string());
  return std::move(*result);
}

/// A server process and a client of it.
class Served {
 public:
  Served(TestFolder& folder, GuestMemory& memory, const std::string& name, std::string size = "16M",
         std::vector<std::string> more = {})
      : memory_(memory),
        socket_(folder.file(name + ".sock")),
        process_(start(folder, name, socket_, size, std::move(more))) {}

  void connect() {
    device = check(vfio_user::connect({.id = "accel0", .socket_path = socket_}, memory_, {}));
  }
  /// What a machine does before it starts.  By message: the server reaches memory only through this process.
  void wire_up(bool by_message) {
    const auto& range = memory_.ranges().at(0);
    check(device->dma_map({.iova = {range.start.value},
                           .size = range.size,
                           .fd = by_message ? -1 : range.block->fd(),
                           .offset = range.offset,
                           .host = range.block->data()}));
    interrupt = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const int fds[] = {interrupt.get()};
    check(device->set_irq_eventfds(vfio::kIrqMsix, fds));
  }
  void write(std::uint64_t offset, std::uint64_t value, std::size_t width = 4) {
    std::byte bytes[8];
    store_le(bytes, value);
    check(device->region_write(kBarRegisters, offset, std::span(bytes).first(width)));
  }
  std::uint64_t read(std::uint64_t offset, std::size_t width = 4) {
    std::byte bytes[8]{};
    check(device->region_read(kBarRegisters, offset, std::span(bytes).first(width)));
    return load_le<std::uint64_t>(bytes);
  }
  void go(DeviceState to) { check(device->migration()->set_state(to)); }
  /// True if there may be more at once.
  bool read_chunk(Bytes& stream, std::size_t size) {
    const auto at = stream.size();
    stream.resize(at + size);
    const auto got = check(device->migration()->read(std::span(stream).subspan(at)));
    stream.resize(at + got.bytes);
    return got.kind == vfio::StateRead::Kind::data;
  }
  cli::ChildProcess& process() { return process_; }
  /// What the ready line says of migration.
  const std::string& said() const { return said_; }
  const std::string& socket() const { return socket_; }

  std::unique_ptr<vfio::Device> device;
  UniqueFd interrupt;

 private:
  cli::ChildProcess start(TestFolder& folder, const std::string& name, const std::string& socket,
                          const std::string& size, std::vector<std::string> more) {
    more.insert(more.begin(), {HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent", "--socket",
                               socket, "--memory", size});
    auto process =
        check(cli::ChildProcess::start(more, {.name = name, .stderr_path = folder.file(name + ".log")}));
    const auto ready = check(process.read_line({}, patience()));
    EXPECT_EQ(ready.substr(0, ready.rfind(": ")),
              fmt::format("serving accelerator ({} MiB) on {}", size.substr(0, size.size() - 1), socket));
    said_ = ready.substr(ready.rfind(": ") + 2);
    return process;
  }

  GuestMemory& memory_;
  std::string socket_;
  std::string said_;
  cli::ChildProcess process_;
};

/// A guest's driver that knows what device memory must hold.
class Guest {
 public:
  Guest(GuestMemory& memory, std::uint64_t seed) : memory_(memory), random_(seed), device_(kDeviceSize) {}

  void enable(Served& at) {
    at_ = &at;
    at.write(reg::kRingAddress, 0, 8);
    at.write(reg::kCompletionAddress, kCompletions, 8);
    at.write(reg::kRingEntries, kEntries);
    at.write(reg::kControl, kControlEnable | kControlInterrupt);
  }
  void move_to(Served& at) { at_ = &at; }

  void fill_somewhere() {
    Descriptor what = make(Operation::fill, 1 + random_() % 400'000);
    what.pattern = random_();
    for (std::uint64_t i = 0; i < what.length; ++i)
      device_[what.device_offset + i] = static_cast<std::byte>(what.pattern >> i % 8 * 8);
    submit(what, 0);
  }
  void copy_in_somewhere() {
    Descriptor what = make(Operation::copy_in, 1 + random_() % 300'000);
    // A place of its own for each, so that nothing changes under a job that waits.
    what.guest_address = kData + submitted_ % 16 * 400'000;
    Bytes data(what.length);
    for (auto& byte : data)
      byte = static_cast<std::byte>(random_());
    wait(submitted_ >= 16 ? submitted_ - 15 : 0);
    ASSERT_TRUE(memory_.write({what.guest_address}, data));
    std::ranges::copy(data, device_.begin() + static_cast<std::ptrdiff_t>(what.device_offset));
    submit(what, 0);
  }
  void hash_everything() {
    submit(make(Operation::hash, kDeviceSize), XXH3_64bits(device_.data(), device_.size()));
  }
  void work(int jobs) {
    for (int i = 0; i < jobs; ++i)
      if (random_() % 2)
        fill_somewhere();
      else
        copy_in_somewhere();
  }
  void wait_all() { wait(submitted_); }
  std::uint32_t submitted() const { return submitted_; }
  std::mt19937_64& random() { return random_; }

 private:
  Descriptor make(Operation operation, std::uint64_t length) {
    Descriptor what{};
    what.id = 5000 + submitted_;
    what.operation = static_cast<std::uint32_t>(operation);
    what.length = length;
    what.device_offset = random_() % (kDeviceSize - length + 1);
    return what;
  }
  void submit(const Descriptor& what, std::uint64_t result) {
    if (submitted_ >= kEntries) wait(submitted_ - kEntries + 1);
    ASSERT_TRUE(memory_.write({submitted_ % kEntries * sizeof what}, std::as_bytes(std::span(&what, 1))));
    results_.push_back(result);
    ++submitted_;
    at_->write(reg::kDoorbell, submitted_);
  }
  // Sees records in order; each is judged once.
  void wait(std::uint32_t jobs) {
    while (seen_ < jobs) {
      CompletionRecord record;
      ASSERT_TRUE(memory_.read({kCompletions + seen_ % kEntries * sizeof record},
                               std::as_writable_bytes(std::span(&record, 1))));
      if (record.sequence != seen_ + 1) {
        ASSERT_TRUE(wait_fd(at_->interrupt.get(), POLLIN, {}, patience())) << "job " << seen_;
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = ::read(at_->interrupt.get(), &count, sizeof count);
        continue;
      }
      EXPECT_EQ(record.id, 5000u + seen_);
      EXPECT_EQ(record.status, 0u);
      EXPECT_EQ(record.result, results_[seen_]) << "job " << seen_;
      ++seen_;
    }
  }

  GuestMemory& memory_;
  std::mt19937_64 random_;
  Bytes device_;
  Served* at_ = nullptr;
  std::uint32_t submitted_ = 0;
  std::uint32_t seen_ = 0;
  std::vector<std::uint64_t> results_;
};

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

TEST(Serve, MigratesAWorkingDeviceByProtocolV1) {
  migrate_with_jobs_by_v1({"--migration", "v1"}, true);
}

TEST(Serve, MigratesADeviceByProtocolV1WithNothingInItsPreCopy) {
  migrate_with_jobs_by_v1({"--migration", "v1", "--pre-copy", "off"}, true);
}

TEST(Serve, MigratesADeviceByProtocolV1InStopCopyAlone) {
  migrate_with_jobs_by_v1({"--migration", "v1"}, false);
}

TEST(Serve, ADeviceOffersWhatTheCommandLineSaysAndTheReadyLineSaysIt) {
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
TEST(Serve, ALoadCostDelaysTheEndOfALoadByAtLeastThat) {
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
