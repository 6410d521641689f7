#include "vmm/address_space.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

namespace handover::vmm {
namespace {

class Recorder final : public MmioHandler {
 public:
  void read(std::uint64_t offset, std::span<std::byte> to) override {
    for (std::size_t i = 0; i < to.size(); ++i)
      to[i] = static_cast<std::byte>(offset + i);
    reads.emplace_back(offset, to.size());
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    writes.emplace_back(offset, std::vector(from.begin(), from.end()));
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> reads;
  std::vector<std::pair<std::uint64_t, std::vector<std::byte>>> writes;
};

class AddressSpaceTest : public testing::Test {
 protected:
  std::unique_ptr<GuestMemory> memory = *GuestMemory::create(1 * MiB);
  AddressSpace bus{*memory};
  Recorder handler;
  const Gpa window{GuestMemory::kHoleStart + 0x1000};
};

TEST_F(AddressSpaceTest, RamKeepsWhatIsWritten) {
  bus.store<std::uint64_t>(Gpa{0x2ffc}, 0x1122334455667788);
  EXPECT_EQ(bus.load<std::uint64_t>(Gpa{0x2ffc}), 0x1122334455667788u);
  EXPECT_EQ(memory->at(Gpa{0x2ffc}, 1)[0], std::byte{0x88});
}

TEST_F(AddressSpaceTest, WritesToRamAreLogged) {
  memory->start_logging();
  bus.store<std::uint64_t>(Gpa{0x2ffc}, 1);
  memory->stop_logging();
  EXPECT_TRUE(memory->blocks()[0]->written().test(2));
  EXPECT_TRUE(memory->blocks()[0]->written().test(3));
  EXPECT_EQ(memory->blocks()[0]->written().count(), 2u);
}

TEST_F(AddressSpaceTest, WhereNothingIsReadsAreOnesAndWritesVanish) {
  EXPECT_EQ(bus.load<std::uint32_t>(window), 0xffffffffu);
  bus.store<std::uint32_t>(window, 1);
  EXPECT_EQ(bus.load<std::uint32_t>(window), 0xffffffffu);
  EXPECT_EQ(bus.load<std::uint64_t>(Gpa{~std::uint64_t{0} - 3}), ~std::uint64_t{0})
      << "beyond the last address";
}

TEST_F(AddressSpaceTest, AWindowAnswersWithItsOwnOffsets) {
  bus.add_window(this, window, 0x100, handler);
  EXPECT_EQ(bus.load<std::uint32_t>(window + 0x10), 0x13121110u);
  bus.store<std::uint16_t>(window + 0x20, 0xbeef);
  ASSERT_EQ(handler.writes.size(), 1u);
  EXPECT_EQ(handler.writes[0].first, 0x20u);
  EXPECT_EQ(handler.writes[0].second, (std::vector{std::byte{0xef}, std::byte{0xbe}}));
}

TEST_F(AddressSpaceTest, TheWindowAddedFirstWins) {
  std::array<std::byte, 16> direct{};
  bus.add_direct_window(this, window + 0x10, direct);
  bus.add_window(this, window, 0x100, handler);
  bus.store<std::uint64_t>(window + 0xc, 0x1111111122222222);
  ASSERT_EQ(handler.writes.size(), 1u) << "four bytes before the direct part";
  EXPECT_EQ(handler.writes[0].second.size(), 4u);
  EXPECT_EQ(direct[0], std::byte{0x11});
  EXPECT_EQ(direct[4], std::byte{0});
  direct[15] = std::byte{0x77};
  EXPECT_EQ(bus.load<std::uint16_t>(window + 0x1f), 0x2077u) << "last direct byte, then the handler's 0x20";
}

TEST_F(AddressSpaceTest, AccessesAreCutAtTheEndOfRam) {
  const Gpa last{1 * MiB - 2};
  bus.store<std::uint32_t>(last, 0x44332211);
  EXPECT_EQ(bus.load<std::uint32_t>(last), 0xffff2211u);
}

TEST_F(AddressSpaceTest, RamWinsOverAWindow) {
  bus.add_window(this, Gpa{0}, 0x1000, handler);
  bus.store<std::uint32_t>(Gpa{8}, 5);
  EXPECT_EQ(bus.load<std::uint32_t>(Gpa{8}), 5u);
  EXPECT_TRUE(handler.writes.empty());
}

TEST_F(AddressSpaceTest, AFileCutShortBehindAWindowIsNoEndOfTheMachine) {
  const UniqueFd file(::memfd_create("window", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 2 * kPageSize), 0);
  const auto mapping = Mapping::shared(file.get(), 0, 2 * kPageSize, PROT_READ | PROT_WRITE).value();
  bus.add_direct_window(this, window, mapping.span());
  bus.store<std::uint32_t>(window + kPageSize, 7);
  EXPECT_EQ(bus.load<std::uint32_t>(window + kPageSize), 7u);
  ASSERT_EQ(::ftruncate(file.get(), kPageSize), 0);
  EXPECT_EQ(bus.load<std::uint32_t>(window + kPageSize), 0xffffffffu);
  bus.store<std::uint32_t>(window + kPageSize, 8);
  bus.store<std::uint32_t>(window, 9);
  EXPECT_EQ(bus.load<std::uint32_t>(window), 9u);
}

TEST_F(AddressSpaceTest, RemovedWindowsAreGone) {
  Recorder other;
  bus.add_window(this, window, 0x100, handler);
  bus.add_window(&other, window + 0x1000, 0x100, other);
  bus.remove_windows(this);
  EXPECT_EQ(bus.load<std::uint8_t>(window), 0xffu);
  EXPECT_EQ(bus.load<std::uint8_t>(window + 0x1000), 0x00u);
}

}  // namespace
}  // namespace handover::vmm
