// Both halves of RamMigration, with a guest that does not hold still.
#include "handover/memory/ram_migration.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "handover/memory/guest_race.h"
#include "unit/memory/random_seed.h"

namespace handover {
namespace {

/// A device that writes to RAM behind everybody's back and keeps a log of its own.
class Device final : public DirtySource {
 public:
  explicit Device(GuestMemory& memory) : block_(*memory.blocks()[0]), log_(block_.pages()) {}
  std::string name() const override { return "device"; }
  Status start() override {
    logging_ = true;
    return {};
  }
  Status sync(DirtyMemory& to, DirtySync) override {
    to.of(block_).absorb(log_);
    return {};
  }
  void stop() override { logging_ = false; }

  void dma(std::uint64_t page, std::mt19937_64& random) {
    {
      const GuestRace race;
      const std::vector<std::byte> content(kPageSize, static_cast<std::byte>(random()));
      std::memcpy(block_.page(page).data(), content.data(), kPageSize);
    }
    if (logging_) log_.mark(page);
  }

 private:
  RamBlock& block_;
  DirtyBitmap log_;
  std::atomic<bool> logging_{false};
};

struct SocketPair {
  SocketPair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    out = adopt_channel(UniqueFd(fds[0]), "source").value();
    in = adopt_channel(UniqueFd(fds[1]), "destination").value();
  }
  std::unique_ptr<Channel> out;
  std::unique_ptr<Channel> in;
};

Status load_all(RamMigration& ram, Channel& channel) {
  StreamReader in(channel);
  HANDOVER_TRY(ram.load_setup());
  for (;;) {
    HANDOVER_ASSIGN(const auto more, in.u8());
    if (more == 0) return {};
    HANDOVER_TRY(ram.load_live(in, 4));
  }
}

// Mission A7: vCPU writes and device writes are tracked apart; none may be lost.
TEST(RamMigration, GuestThatWritesDuringPreCopyArrivesWhole) {
  const auto seed = test::random_seed();
  constexpr std::uint64_t kSize = 8 * MiB;
  auto memory = GuestMemory::create(kSize).value();
  auto copy = GuestMemory::create(kSize).value();
  // A quarter of memory in use when it begins.
  std::mt19937_64 filler(seed);
  for (std::uint64_t page = 0; page < kSize / kPageSize; page += 1 + filler() % 7)
    std::memset(memory->blocks()[0]->page(page).data(), static_cast<int>(filler() % 256), kPageSize);

  ProcessWrites writes(*memory);
  Device device(*memory);
  RamMigration source(*memory);
  source.add_dirty_source(writes);
  source.add_dirty_source(device);
  RamMigration destination(*copy);
  SocketPair sockets;
  Status loaded;
  std::jthread loader([&] { loaded = load_all(destination, *sockets.in); });

  std::atomic<bool> stop{false};
  std::vector<std::jthread> guests;
  for (std::uint64_t vcpu = 0; vcpu < 2; ++vcpu) {
    guests.emplace_back([&, vcpu] {
      std::mt19937_64 random(seed + 1 + vcpu);
      std::vector<std::byte> bytes(5000);
      while (!stop) {
        for (auto& value : bytes)
          value = static_cast<std::byte>(random() % 4 == 0 ? 0 : random());
        const auto length = 1 + random() % bytes.size();
        memory->write(Gpa{random() % (kSize - length)}, std::span(bytes).first(length));
        std::this_thread::yield();
      }
    });
  }
  guests.emplace_back([&] {
    std::mt19937_64 random(seed + 9);
    while (!stop) {
      device.dma(random() % (kSize / kPageSize), random);
      std::this_thread::yield();
    }
  });
  // Figures are read by whoever asks, at any time.
  std::jthread watcher([&](const std::stop_token& token) {
    std::uint64_t last = 0;
    while (!token.stop_requested()) {
      const auto now = source.counters().bytes;
      EXPECT_GE(now, last);
      last = now;
      const auto syncs = source.sync_count();
      EXPECT_LE(syncs, source.rounds().size());
      (void)source.dirty_pages_rate();
      std::this_thread::yield();
    }
  });

  StreamWriter out(*sockets.out);
  out.u8(1);
  ASSERT_TRUE(source.save_setup(out));
  std::mt19937_64 random(seed + 5);
  for (int part = 0; part < 60; ++part) {
    out.u8(1);
    const auto done = source.save_iterate(out, {random() % (512 * KiB), {}});
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(out.flush());
    const bool pass_ended = *done == Iterated::nothing_now;
    ASSERT_TRUE(source.pending(pass_ended || random() % 10 == 0));
  }
  stop = true;
  guests.clear();
  out.u8(1);
  ASSERT_TRUE(source.save_complete(out));
  out.u8(0);
  ASSERT_TRUE(out.flush());
  loader.join();
  watcher.request_stop();
  watcher.join();

  ASSERT_TRUE(loaded) << loaded.error().to_string();
  EXPECT_EQ(std::memcmp(memory->blocks()[0]->data(), copy->blocks()[0]->data(), kSize), 0) << "seed " << seed;
  const auto rounds = source.rounds();
  ASSERT_GE(rounds.size(), 3u);
  std::uint64_t dirtied = 0;
  for (std::size_t i = 1; i < rounds.size(); ++i)
    dirtied += rounds[i].dirty_pages;
  EXPECT_GT(dirtied, 0u) << "the guest held still: this proves nothing";
  EXPECT_EQ(source.counters().normal_pages, destination.counters().normal_pages);
  EXPECT_EQ(source.counters().zero_pages, destination.counters().zero_pages);
  EXPECT_EQ(source.counters().bytes, destination.counters().bytes);
  source.cleanup();
  destination.cleanup();
  EXPECT_FALSE(memory->logging());
}

TEST(RamMigration, CutConnectionFailsTheLoadWithAnOffset) {
  auto memory = GuestMemory::create(MiB).value();
  auto copy = GuestMemory::create(MiB).value();
  std::memset(memory->blocks()[0]->data(), 0x5a, MiB);
  RamMigration source(*memory);
  RamMigration destination(*copy);
  SocketPair sockets;
  Status loaded;
  std::jthread loader([&] { loaded = load_all(destination, *sockets.in); });
  {
    StreamWriter out(*sockets.out);
    out.u8(1);
    ASSERT_TRUE(source.save_setup(out));
    out.u8(1);
    ASSERT_TRUE(source.save_iterate(out, {100 * KiB, {}}));
    out.u8(1);
    ASSERT_TRUE(out.flush());
  }
  sockets.out.reset();
  loader.join();
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Errc::closed);
  EXPECT_NE(loaded.error().to_string().find("offset"), std::string::npos);
}

}  // namespace
}  // namespace handover
