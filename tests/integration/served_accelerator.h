#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <xxhash.h>

#include <random>

#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"
#include "handover/vfio_user/client.h"
#include "integration/two_machines.h"

/// `handover serve accelerator` in processes of its own, driven through the vfio-user client.
namespace handover::test {

using namespace accelerator;
using vfio::DeviceState;
using Bytes = std::vector<std::byte>;

inline constexpr std::uint64_t kGuestSize = 8 * MiB;
inline constexpr std::uint64_t kDeviceSize = 16 * MiB;
inline constexpr std::uint64_t kCompletions = 0x2000;
inline constexpr std::uint64_t kData = 0x10000;
inline constexpr std::uint32_t kEntries = 64;

inline void check(const Status& status) {
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

}  // namespace handover::test
