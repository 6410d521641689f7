// How fast the state of a served device goes from one server process through this one into another, next to
// the same bytes copied through the same kind of sockets: process, UNIX socket, this process, UNIX socket,
// process.
//
//     device_path [--mib 256] [--runs 5] [--migration v2|v1]

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "cli/child_process.h"
#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"
#include "handover/vfio_user/client.h"

namespace {

using namespace handover;
using accelerator::Descriptor;
using vfio::DeviceState;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kChunk = 1 * MiB;

struct Options {
  std::uint64_t mib = 256;
  int runs = 5;
  std::string migration = "v2";
};

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  fmt::print(stderr, "{}\n", result.error().to_string());
  std::exit(1);
}
void must(Status status) {
  if (status) return;
  fmt::print(stderr, "{}\n", status.error().to_string());
  std::exit(1);
}
void must(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::exit(1);
}

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Seconds that a process has spent on a CPU.
double cpu_of(pid_t process) {
  clockid_t clock;
  must(::clock_getcpuclockid(process, &clock) == 0, "clock_getcpuclockid");
  timespec time;
  must(::clock_gettime(clock, &time) == 0, "clock_gettime");
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}
struct Cpu {
  double source = 0, between = 0, destination = 0;
};

/// One device server process, and this process as its machine.
class Served {
 public:
  Served(const std::string& folder, const std::string& name, const Options& options)
      : process_(must(cli::ChildProcess::start(
            {HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent", "--socket", folder + name,
             "--memory", fmt::format("{}M", options.mib), "--migration", options.migration},
            {.name = name, .stderr_path = {}}))) {
    must(process_.read_line({}, Clock::now() + std::chrono::minutes(1)));
    device_ = must(vfio_user::connect({.id = name, .socket_path = folder + name}, *memory_, {}));
    must(device_->dma_map({.iova = {0},
                           .size = memory_->size(),
                           .fd = memory_->blocks()[0]->fd(),
                           .offset = 0,
                           .host = memory_->blocks()[0]->data()}));
  }

  vfio::MigrationProtocol& protocol() { return *device_->migration(); }
  double cpu() const { return cpu_of(process_.pid()); }

  /// All of the device's memory, with something else in every MiB.
  void fill(std::uint64_t mib) {
    std::mt19937_64 random(1);
    write(accelerator::reg::kRingAddress, 0, 8);
    write(accelerator::reg::kCompletionAddress, 1 * MiB, 8);
    write(accelerator::reg::kRingEntries, accelerator::kMaxRingEntries, 4);
    write(accelerator::reg::kControl, accelerator::kControlEnable, 4);
    for (std::uint64_t done = 0; done < mib;) {
      const auto part = std::min<std::uint64_t>(mib - done, accelerator::kMaxRingEntries / 2);
      for (const auto end = done + part; done < end; ++done) {
        Descriptor job{};
        job.operation = static_cast<std::uint32_t>(accelerator::Operation::fill);
        job.device_offset = done * MiB;
        job.length = MiB;
        job.pattern = random() | 1;
        memory_->write(Gpa{done % accelerator::kMaxRingEntries * sizeof job},
                       std::as_bytes(std::span(&job, 1)));
      }
      write(accelerator::reg::kDoorbell, done, 4);
      while (read(accelerator::reg::kCompleted) != done)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

 private:
  void write(std::uint64_t offset, std::uint64_t value, std::size_t width) {
    std::byte bytes[8];
    store_le(bytes, value);
    must(device_->region_write(accelerator::kBarRegisters, offset, std::span(bytes).first(width)));
  }
  std::uint32_t read(std::uint64_t offset) {
    std::byte bytes[4];
    must(device_->region_read(accelerator::kBarRegisters, offset, bytes));
    return load_le<std::uint32_t>(bytes);
  }

  cli::ChildProcess process_;
  std::unique_ptr<GuestMemory> memory_ = must(GuestMemory::create(4 * MiB));
  std::unique_ptr<vfio::Device> device_;
};

/// Buffers on their way from one thread to another, a few at a time.
class Belt {
 public:
  void put(Bytes chunk) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return chunks_.size() < 4; });
    chunks_.push_back(std::move(chunk));
    changed_.notify_all();
  }
  Bytes take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !chunks_.empty(); });
    auto chunk = std::move(chunks_.front());
    chunks_.pop_front();
    changed_.notify_all();
    return chunk;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Bytes> chunks_;
};

/// Reads to the end, one chunk a call of `take`.
template <class Take>
void read_all(vfio::MigrationProtocol& from, Bytes& buffer, Take take) {
  for (;;) {
    const auto read = must(from.read(buffer));
    if (read.bytes > 0) take(std::span(buffer).first(read.bytes));
    if (read.kind == vfio::StateRead::Kind::end) return;
  }
}

std::size_t chunk_of(vfio::MigrationProtocol& protocol) {
  return std::min(kChunk, protocol.preferred_chunk());
}

struct Path {
  Served& source;
  Served& destination;

  void begin() {
    must(source.protocol().set_state(DeviceState::stop_copy));
    must(destination.protocol().set_state(DeviceState::resuming));
  }
  void end() { must(source.protocol().set_state(DeviceState::running)); }

  double one_thread() {
    begin();
    Bytes buffer(chunk_of(source.protocol()));
    const auto start = Clock::now();
    read_all(source.protocol(), buffer,
             [&](std::span<const std::byte> chunk) { must(destination.protocol().write(chunk)); });
    must(destination.protocol().set_state(DeviceState::stop));
    const auto seconds = since(start);
    end();
    return seconds;
  }

  // As in a migration, where reading and writing are in two processes.
  double thread_each() {
    begin();
    Belt full, empty;
    for (int i = 0; i < 3; ++i)
      empty.put(Bytes(chunk_of(source.protocol())));
    const auto start = Clock::now();
    std::jthread reader([&] {
      for (bool more = true; more;) {
        auto buffer = empty.take();
        const auto read = must(source.protocol().read(buffer));
        more = read.kind != vfio::StateRead::Kind::end;
        buffer.resize(read.bytes);
        full.put(std::move(buffer));
      }
      full.put({});
    });
    for (;;) {
      auto chunk = full.take();
      if (chunk.empty()) break;
      must(destination.protocol().write(chunk));
      chunk.resize(chunk_of(source.protocol()));
      empty.put(std::move(chunk));
    }
    must(destination.protocol().set_state(DeviceState::stop));
    const auto seconds = since(start);
    reader.join();
    end();
    return seconds;
  }

  double read_only(std::vector<Bytes>* keep) {
    must(source.protocol().set_state(DeviceState::stop_copy));
    Bytes buffer(chunk_of(source.protocol()));
    const auto start = Clock::now();
    read_all(source.protocol(), buffer, [&](std::span<const std::byte> chunk) {
      if (keep) keep->emplace_back(chunk.begin(), chunk.end());
    });
    const auto seconds = since(start);
    end();
    return seconds;
  }
  double write_only(const std::vector<Bytes>& chunks) {
    must(destination.protocol().set_state(DeviceState::resuming));
    const auto start = Clock::now();
    for (const auto& chunk : chunks)
      must(destination.protocol().write(chunk));
    must(destination.protocol().set_state(DeviceState::stop));
    return since(start);
  }

  /// What the destination says now is what the source says.
  void compare() {
    std::vector<Bytes> sent, arrived;
    read_only(&sent);
    Path{destination, source}.read_only(&arrived);
    if (sent == arrived) return;
    fmt::print(stderr, "the two devices differ\n");
    std::exit(1);
  }
};

void write_fully(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto done = ::write(fd, bytes.data(), bytes.size());
    must(done > 0, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}
void read_fully(int fd, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto done = ::read(fd, bytes.data(), bytes.size());
    must(done > 0, "read");
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

/// Runs `work` in a process of its own, with one end of a socket; the other end is returned.
template <class Work>
std::pair<pid_t, UniqueFd> in_a_process(Work work) {
  int ends[2];
  must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  const auto child = ::fork();
  must(child >= 0, "fork");
  if (child == 0) {
    ours.reset();
    work(theirs.get());
    ::_exit(0);
  }
  return {child, std::move(ours)};
}

/// `size` bytes in chunks of 1 MiB: one process writes, this one passes on, another reads.
double raw_copy(std::uint64_t size) {
  const auto chunks = size / kChunk;
  auto [sender, from] = in_a_process([&](int fd) {
    const Bytes buffer(kChunk, std::byte{0x5a});
    std::byte go;
    read_fully(fd, {&go, 1});
    for (std::uint64_t i = 0; i < chunks; ++i)
      write_fully(fd, buffer);
  });
  auto [receiver, to] = in_a_process([&](int fd) {
    Bytes buffer(kChunk);
    for (std::uint64_t i = 0; i < chunks; ++i)
      read_fully(fd, buffer);
    write_fully(fd, std::span(buffer).first(1));
  });
  Bytes buffer(kChunk);
  const auto start = Clock::now();
  write_fully(from.get(), std::span(buffer).first(1));
  for (std::uint64_t i = 0; i < chunks; ++i) {
    read_fully(from.get(), buffer);
    write_fully(to.get(), buffer);
  }
  read_fully(to.get(), std::span(buffer).first(1));
  const auto seconds = since(start);
  ::waitpid(sender, nullptr, 0);
  ::waitpid(receiver, nullptr, 0);
  return seconds;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print_row(std::string_view what, const std::vector<double>& seconds, std::uint64_t mib,
               double raw_median) {
  const auto [fastest, slowest] = std::ranges::minmax(seconds);
  const auto rate = [&](double time) { return static_cast<double>(mib) / time; };
  fmt::print("{:<40} {:>8.0f} {:>8.0f} {:>8.0f}", what, rate(slowest), rate(median(seconds)), rate(fastest));
  if (raw_median > 0) fmt::print(" {:>7.0f} %", 100 * raw_median / median(seconds));
  fmt::print("\n");
}

void run(const Options& options) {
  std::string folder = "/tmp/handover-bench-XXXXXX";
  must(::mkdtemp(folder.data()) != nullptr, "mkdtemp");
  folder += '/';
  {
    Served a(folder, "source", options), b(folder, "destination", options);
    a.fill(options.mib);
    Path path{a, b};
    std::vector<double> raw, one, each, reading, writing;
    std::vector<Bytes> stream;
    Cpu cpu;
    // Not counted: memory that the host has never given out before costs many times as much.
    raw_copy(options.mib * MiB);
    path.one_thread();
    path.read_only(&stream);
    for (int i = 0; i < options.runs; ++i) {
      raw.push_back(raw_copy(options.mib * MiB));
      one.push_back(path.one_thread());
      const Cpu before{a.cpu(), cpu_of(::getpid()), b.cpu()};
      each.push_back(path.thread_each());
      cpu.source += a.cpu() - before.source;
      cpu.between += cpu_of(::getpid()) - before.between;
      cpu.destination += b.cpu() - before.destination;
      reading.push_back(path.read_only(nullptr));
      writing.push_back(path.write_only(stream));
    }
    path.compare();
    fmt::print("{:<40} {:>8} {:>8} {:>8}  of raw\n",
               fmt::format("{} MiB, {} runs, {}", options.mib, options.runs, a.protocol().protocol_name()),
               "min MiB/s", "median", "max");
    const auto reference = median(raw);
    print_row("raw copy, process to process to process", raw, options.mib, 0);
    print_row("device to device, a thread for each side", each, options.mib, reference);
    print_row("device to device, one thread", one, options.mib, reference);
    print_row("reading from the source alone", reading, options.mib, reference);
    print_row("writing to the destination alone", writing, options.mib, reference);
    const double gib = static_cast<double>(options.mib) * options.runs / 1024;
    fmt::print("CPU seconds a GiB: source {:.2f}, this process {:.2f}, destination {:.2f}\n",
               cpu.source / gib, cpu.between / gib, cpu.destination / gib);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Throughput of a served device's state from one server process to another"};
  Options options;
  app.add_option("--mib", options.mib, "size of device memory in MiB, all of it written")
      ->capture_default_str();
  app.add_option("--runs", options.runs, "how often each is measured")->capture_default_str();
  app.add_option("--migration", options.migration, "v2 or v1")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  run(options);
}
