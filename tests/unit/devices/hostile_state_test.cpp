#include <gtest/gtest.h>
#include <xxhash.h>

#include <random>

#include "unit/devices/migration_helpers.h"
#include "unit/memory/random_seed.h"

namespace handover::accelerator::test {
namespace {

constexpr std::uint64_t kMemory = MiB;

// Memory, zero pages after data, and a job in flight: every kind of frame.
Bytes rich_state() {
  GuestRam ram;
  Rig rig(ram, kMemory);
  Driver driver(ram, rig);
  driver.enable();
  driver.submit(job(1, Operation::fill, 0, 5000, 60'000, 0x1234));
  driver.wait_all();
  Bytes stream;
  rig.walk({DeviceState::pre_copy});
  read_all(rig, stream);
  driver.submit(job(2, Operation::fill, 0, 8192, 8192, 0));
  driver.wait_all();
  rig.walk({DeviceState::pre_copy_p2p});
  driver.submit(job(3, Operation::copy_in, GuestRam::kData, 0, 100'000));
  rig.walk({DeviceState::stop_copy});
  read_all(rig, stream);
  return stream;
}

struct Frame {
  std::size_t at;
  std::size_t size;
};
std::vector<Frame> frames_of(const Bytes& stream) {
  std::vector<Frame> frames;
  for (std::size_t at = stream::kPreambleSize; at < stream.size();) {
    const std::size_t size = stream::frame_size(load_le<std::uint32_t>(&stream[at + 4]));
    frames.push_back({at, size});
    at += size;
  }
  return frames;
}
// Makes the checksums right again: what a hostile source, not a broken wire, would send.
void seal_all(Bytes& stream, const std::vector<Frame>& frames) {
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const std::size_t covered = frames[i].size - stream::kChecksumSize;
    store_le<std::uint64_t>(&stream[frames[i].at + covered],
                            XXH3_64bits_withSeed(&stream[frames[i].at], covered, i));
  }
}

Status decode(DeviceMemory& memory, std::span<const std::byte> stream, std::mt19937_64& random) {
  StateDecoder decoder(memory);
  while (!stream.empty()) {
    const std::size_t part =
        std::min<std::size_t>(stream.size(), 1 + random() % (random() % 2 ? 100 : 70'000));
    HANDOVER_TRY(decoder.write(stream.first(part)));
    stream = stream.subspan(part);
  }
  auto loaded = decoder.finish();
  if (!loaded) return std::unexpected(loaded.error());
  return {};
}

TEST(HostileState, AlteredStreamsAreRefused) {
  const auto seed = handover::test::random_seed();
  std::mt19937_64 random(seed);
  const Bytes good = rich_state();
  auto memory = DeviceMemory::create(kMemory).value();
  ASSERT_TRUE(decode(*memory, good, random));
  for (int i = 0; i < 2000; ++i) {
    Bytes bad = good;
    const auto at = static_cast<std::ptrdiff_t>(random() % bad.size());
    switch (random() % 5) {
      case 0:
        bad.resize(static_cast<std::size_t>(at));
        break;
      case 1:
        bad[static_cast<std::size_t>(at)] ^= static_cast<std::byte>(1 + random() % 255);
        break;
      case 2:
        bad.erase(bad.begin() + at, bad.begin() + at + 1);
        break;
      case 3:
        bad.insert(bad.begin() + at, std::byte{0x55});
        break;
      default:
        bad.insert(bad.end(), bad.begin(), bad.begin() + 1 + at);
        break;
    }
    if (bad == good) continue;
    ASSERT_FALSE(decode(*memory, bad, random)) << "mutation " << i;
  }
}

TEST(HostileState, LostRepeatedAndSwappedFramesAreRefused) {
  std::mt19937_64 random(1);
  const Bytes good = rich_state();
  const auto frames = frames_of(good);
  auto memory = DeviceMemory::create(kMemory).value();
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const auto begin = good.begin() + static_cast<std::ptrdiff_t>(frames[i].at);
    const auto end = begin + static_cast<std::ptrdiff_t>(frames[i].size);
    Bytes lost = good;
    lost.erase(lost.begin() + (begin - good.begin()), lost.begin() + (end - good.begin()));
    EXPECT_FALSE(decode(*memory, lost, random)) << i;
    Bytes twice = good;
    twice.insert(twice.begin() + (end - good.begin()), begin, end);
    EXPECT_FALSE(decode(*memory, twice, random)) << i;
  }
}

TEST(HostileState, LiesWithRightChecksumsNeverCrashTheDevice) {
  const auto seed = handover::test::random_seed();
  std::mt19937_64 random(seed);
  const Bytes good = rich_state();
  const auto frames = frames_of(good);
  GuestRam ram;
  Rig rig(ram, kMemory);
  auto memory = DeviceMemory::create(kMemory).value();
  int accepted = 0;
  for (int i = 0; i < 2000; ++i) {
    Bytes bad = good;
    // Aims at the heads of frames and the device record, where the numbers are.
    const Frame& frame = frames[random() % frames.size()];
    const bool head = random() % 2 == 0;
    const std::size_t payload = frame.size - stream::frame_size(0);
    for (int n = static_cast<int>(random() % 3); n >= 0; --n) {
      const std::size_t offset = head ? random() % std::min<std::size_t>(payload, 24)
                                      : payload - 1 - random() % std::min<std::size_t>(payload, 120);
      bad[frame.at + stream::kFrameHeaderSize + offset] = static_cast<std::byte>(random());
    }
    seal_all(bad, frames);
    const bool fine = decode(*memory, bad, random).has_value();
    accepted += fine;
    // What is accepted must be something that the engine can live with.
    if (fine) {
      EXPECT_EQ(load(rig, bad).has_value(), true);
      if (rig.state == DeviceState::stop) {
        start(rig);
        std::promise<void> done;
        rig.model->dma_unmapping({0}, 1, [&](const Status&) { done.set_value(); });
        done.get_future().wait();
      }
      ASSERT_TRUE(rig.reset());
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 2000);
}

TEST(HostileState, AnotherMemorySizeIsNamed) {
  GuestRam ram;
  Rig source(ram, 2 * MiB);
  Rig destination(ram, MiB);
  const Bytes stream = save(source);
  const Status refused = load(destination, stream);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::mismatch);
  EXPECT_NE(refused.error().to_string().find("device memory is 1 MiB here and 2 MiB in the stream"),
            std::string::npos)
      << refused.error().to_string();
}

TEST(HostileState, RefusedOrIncompleteStateLeavesAFreshDevice) {
  const Bytes good = rich_state();
  GuestRam ram;
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, good.size() / 2, good.size() - 1}) {
    SCOPED_TRACE(size);
    Rig rig(ram, kMemory);
    const Status refused = load(rig, std::span(good).first(size));
    ASSERT_FALSE(refused);
    EXPECT_EQ(rig.state, DeviceState::resuming);
    EXPECT_NE(refused.error().to_string().find("end mark"), std::string::npos) << refused.error().to_string();
    // A failed session stays failed, also if the rest should come.
    EXPECT_FALSE(rig.model->migration_write(std::span(good).subspan(size, 1)));
    EXPECT_FALSE(rig.go(DeviceState::stop));
    EXPECT_EQ(rig.read(reg::kJobsDone, 8), 0u);
    ASSERT_TRUE(rig.reset());
    Driver driver(ram, rig);
    driver.enable();
    driver.submit(job(1, Operation::hash, 0, 0, kMemory));
    driver.wait_all();
    const Bytes zeros(kMemory);
    EXPECT_EQ(driver.records().back().result, XXH3_64bits(zeros.data(), zeros.size()));
  }
}

TEST(HostileState, BytesBehindTheEndAreRefused) {
  Bytes stream = rich_state();
  stream.push_back(std::byte{0});
  GuestRam ram;
  Rig rig(ram, kMemory);
  EXPECT_FALSE(load(rig, stream));
}

}  // namespace
}  // namespace handover::accelerator::test
