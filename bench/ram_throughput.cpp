// How fast RAM migrates over TCP on one machine, beside a bare copy of as many bytes through a socket.
//
// Both run in turn, several times, so that a noisy machine is noisy for both.  Two threads: one sends, one
// receives.  The numbers are wall-clock time on the receiving side, from the first byte to the last.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "handover/channel/channel.h"
#include "handover/memory/dirty_source.h"
#include "handover/memory/ram_migration.h"

namespace {

using namespace handover;
using Clock = std::chrono::steady_clock;

struct Options {
  std::uint64_t mib = 1024;
  int runs = 5;
  std::string only;
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

struct Pipe {
  std::unique_ptr<Channel> out;
  std::unique_ptr<Channel> in;
};

Pipe open_pipe() {
  auto listener = must(listen_on(must(Address::parse("tcp:127.0.0.1:0"))));
  Pipe pipe;
  pipe.out = must(connect_channel(listener->address(), {}));
  pipe.in = must(listener->accept({}));
  return pipe;
}

/// Seconds that receive() takes while send() runs on a thread of its own.
double timed(const std::function<void()>& send, const std::function<void()>& receive) {
  std::jthread sender(send);
  const auto start = Clock::now();
  receive();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::size_t kBuffer = 256 * 1024;

/// Received into one buffer again and again, or into `memory` from its first byte to its last: what a reader
/// that knew the place of every page beforehand would reach.
double raw_copy(std::uint64_t size, GuestMemory* memory = nullptr) {
  auto pipe = open_pipe();
  return timed(
      [&] {
        const std::vector<std::byte> buffer(kBuffer, std::byte{0x5a});
        for (std::uint64_t left = size; left > 0; left -= std::min(left, std::uint64_t{kBuffer}))
          must(pipe.out->write_all(std::span(buffer).first(std::min<std::uint64_t>(left, kBuffer))));
      },
      [&] {
        std::vector<std::byte> buffer(kBuffer);
        for (std::uint64_t done = 0; done < size;) {
          const auto space = std::min<std::uint64_t>(size - done, kBuffer);
          const auto into = memory ? std::span(memory->blocks()[0]->data() + done, space) : std::span(buffer);
          done += must(pipe.in->read_some(into));
        }
      });
}

struct Guests {
  explicit Guests(std::uint64_t size)
      : source(must(GuestMemory::create(size))), destination(must(GuestMemory::create(size))) {}
  std::unique_ptr<GuestMemory> source;
  std::unique_ptr<GuestMemory> destination;
};

/// One whole migration of RAM; `between` runs after each pass but the last, of `passes` before completion.
double migrate(Guests& guests, int passes = 1, const std::function<void()>& between = [] {}) {
  auto pipe = open_pipe();
  ProcessWrites writes(*guests.source);
  RamMigration saver(*guests.source);
  saver.add_dirty_source(writes);
  RamMigration loader(*guests.destination);
  // Sections as the engine would frame them, less their headers: START, one PART a pass, END.
  const double seconds = timed(
      [&] {
        StreamWriter out(*pipe.out);
        must(saver.save_setup(out));
        for (int pass = 0; pass < passes; ++pass) {
          if (pass > 0) {
            between();
            must(saver.pending(true));
          }
          must(saver.save_iterate(out, {std::numeric_limits<std::uint64_t>::max(), {}}));
        }
        must(saver.save_complete(out));
        must(out.flush());
      },
      [&] {
        must(loader.load_setup());
        StreamReader in(*pipe.in);
        for (int section = 0; section < passes + 2; ++section)
          must(loader.load_live(in, loader.version_id()));
      });
  saver.cleanup();
  loader.cleanup();
  const auto& from = *guests.source->blocks()[0];
  if (std::memcmp(from.data(), guests.destination->blocks()[0]->data(), from.size()) != 0) {
    fmt::print(stderr, "the two sides differ\n");
    std::exit(1);
  }
  return seconds;
}

void fill_random(GuestMemory& memory) {
  std::mt19937_64 random(1);
  auto* words = reinterpret_cast<std::uint64_t*>(memory.blocks()[0]->data());
  for (std::uint64_t i = 0; i < memory.size() / sizeof *words; ++i)
    words[i] = random();
}

void dirty_pages(GuestMemory& memory, std::mt19937_64& random, double part) {
  const auto pages = memory.blocks()[0]->pages();
  const auto count = static_cast<std::uint64_t>(static_cast<double>(pages) * part);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t value = random();
    memory.write(Gpa{random() % pages * kPageSize}, std::as_bytes(std::span(&value, 1)));
  }
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print_row(std::string_view what, std::vector<double> seconds, std::uint64_t size, double raw_median) {
  const double mib = static_cast<double>(size) / static_cast<double>(MiB);
  const auto [fastest, slowest] = std::ranges::minmax(seconds);
  fmt::print("{:<34} {:>8.0f} {:>8.0f} {:>8.0f}", what, mib / slowest, mib / median(seconds), mib / fastest);
  if (raw_median > 0) fmt::print(" {:>7.0f} %", 100 * raw_median / median(seconds));
  fmt::print("\n");
}

void run(const Options& options) {
  const std::uint64_t size = options.mib * MiB;
  std::vector<double> raw, raw_fresh, random_fresh, random_again, zero, dirty;
  auto content = std::make_unique<Guests>(size);
  fill_random(*content->source);
  const auto wanted = [&](std::string_view row) { return options.only.empty() || options.only == row; };
  for (int i = 0; i < options.runs; ++i) {
    raw.push_back(raw_copy(size));
    if (wanted("random")) {
      raw_fresh.push_back(raw_copy(size, must(GuestMemory::create(size)).get()));
      content->destination = must(GuestMemory::create(size));
      random_fresh.push_back(migrate(*content));
      random_again.push_back(migrate(*content));
    }
    if (wanted("zero")) {
      Guests empty(size);
      std::memset(empty.source->blocks()[0]->data(), 0, size);
      zero.push_back(migrate(empty));
    }
    if (wanted("dirty")) {
      std::mt19937_64 random(static_cast<std::uint64_t>(i));
      dirty.push_back(migrate(*content, 5, [&] { dirty_pages(*content->source, random, 0.1); }));
    }
  }
  fmt::print("{} MiB, {} runs{:>17} {:>8} {:>8}  of raw\n", options.mib, options.runs, "min MiB/s", "median",
             "max");
  const double reference = median(raw);
  print_row("raw socket copy", raw, size, 0);
  if (!random_fresh.empty()) {
    print_row("raw socket copy into fresh memory", raw_fresh, size, reference);
    print_row("random RAM into fresh memory", random_fresh, size, reference);
    print_row("random RAM into used memory", random_again, size, reference);
  }
  if (!zero.empty()) print_row("RAM of zeros", zero, size, reference);
  if (!dirty.empty()) print_row("random RAM, 4 rounds of 10 % dirty", dirty, size, reference);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Throughput of RAM migration over TCP loopback"};
  Options options;
  app.add_option("--mib", options.mib, "size of guest RAM in MiB")->capture_default_str();
  app.add_option("--runs", options.runs, "how often each is measured")->capture_default_str();
  app.add_option("--only", options.only, "random, zero or dirty")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  run(options);
}
