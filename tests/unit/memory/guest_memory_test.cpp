#include "handover/memory/guest_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace handover {
namespace {

std::vector<std::byte> some_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

TEST(GuestMemory, SizeZeroIsRefusedWithASentence) {
  auto memory = GuestMemory::create(0);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code(), Errc::invalid_argument);
  EXPECT_NE(memory.error().to_string().find("ram0"), std::string::npos);
}

TEST(GuestMemory, SizeThatIsNoMultipleOfThePageIsRefused) {
  EXPECT_FALSE(GuestMemory::create(kPageSize + 1));
  EXPECT_FALSE(GuestMemory::create(3 * kPageSize, true));
}

TEST(GuestMemory, EnormousSizeIsRefused) {
  EXPECT_FALSE(GuestMemory::create(~std::uint64_t{0} - 4095));
}

TEST(GuestMemory, HugePagesWorkOrTheErrorSaysHowToReserveThem) {
  auto memory = GuestMemory::create(2 * MiB, true);
  if (memory)
    EXPECT_EQ((*memory)->size(), 2 * MiB);
  else
    EXPECT_NE(memory.error().to_string().find("vm.nr_hugepages=1"), std::string::npos)
        << memory.error().to_string();
}

TEST(GuestMemory, SmallMemoryIsOneRangeFromZero) {
  auto memory = GuestMemory::create(MiB).value();
  ASSERT_EQ(memory->ranges().size(), 1u);
  EXPECT_EQ(memory->ranges()[0].start, Gpa{0});
  EXPECT_EQ(memory->ranges()[0].size, MiB);
  ASSERT_EQ(memory->blocks().size(), 1u);
  EXPECT_EQ(memory->find_block("ram0"), memory->blocks()[0].get());
  EXPECT_EQ(memory->find_block("ram1"), nullptr);
}

TEST(GuestMemory, LargeMemoryIsLaidOutAroundTheHole) {
  auto memory = GuestMemory::create(5 * GiB).value();
  ASSERT_EQ(memory->ranges().size(), 2u);
  EXPECT_EQ(memory->ranges()[0].size, GuestMemory::kHoleStart);
  EXPECT_EQ(memory->ranges()[1].start, Gpa{GuestMemory::kHoleEnd});
  EXPECT_EQ(memory->ranges()[1].size, 2 * GiB);
  EXPECT_EQ(memory->ranges()[1].offset, GuestMemory::kHoleStart);
  EXPECT_EQ(memory->size(), 5 * GiB);

  const auto bytes = some_bytes(100);
  EXPECT_TRUE(memory->write(Gpa{GuestMemory::kHoleEnd}, bytes));
  EXPECT_EQ(std::memcmp(memory->blocks()[0]->data() + GuestMemory::kHoleStart, bytes.data(), bytes.size()),
            0);
  EXPECT_FALSE(memory->write(Gpa{GuestMemory::kHoleStart - 50}, bytes));
  EXPECT_FALSE(memory->write(Gpa{GuestMemory::kHoleEnd - 50}, bytes));
  EXPECT_TRUE(memory->at(Gpa{GuestMemory::kHoleStart}, 1).empty());
}

TEST(GuestMemory, ReadsWhatWasWritten) {
  auto memory = GuestMemory::create(MiB).value();
  const auto bytes = some_bytes(10000);
  ASSERT_TRUE(memory->write(Gpa{12345}, bytes));
  std::vector<std::byte> back(bytes.size());
  ASSERT_TRUE(memory->read(Gpa{12345}, back));
  EXPECT_EQ(back, bytes);
  EXPECT_EQ(memory->at(Gpa{12345}, 10)[3], bytes[3]);
}

TEST(GuestMemory, NothingIsCopiedIfAPartIsNoRam) {
  auto memory = GuestMemory::create(MiB).value();
  const auto bytes = some_bytes(100);
  EXPECT_FALSE(memory->write(Gpa{MiB - 99}, bytes));
  EXPECT_EQ(memory->at(Gpa{MiB - 99}, 1)[0], std::byte{0});
  std::vector<std::byte> back(100, std::byte{0x5a});
  EXPECT_FALSE(memory->read(Gpa{MiB - 99}, back));
  EXPECT_EQ(back, std::vector<std::byte>(100, std::byte{0x5a}));
  EXPECT_FALSE(memory->read(Gpa{~std::uint64_t{0} - 10}, back));
  EXPECT_TRUE(memory->at(Gpa{MiB}, 1).empty());
}

TEST(GuestMemory, WritesAreLoggedOnlyWhileLoggingIsOn) {
  auto memory = GuestMemory::create(MiB).value();
  auto& written = memory->blocks()[0]->written();
  const auto bytes = some_bytes(2);
  memory->write(Gpa{0}, bytes);
  EXPECT_EQ(written.count(), 0u);
  memory->start_logging();
  memory->start_logging();
  memory->write(Gpa{2 * kPageSize - 1}, bytes);
  EXPECT_TRUE(written.test(1));
  EXPECT_TRUE(written.test(2));
  EXPECT_EQ(written.count(), 2u);
  memory->stop_logging();
  memory->write(Gpa{5 * kPageSize}, bytes);
  EXPECT_TRUE(written.test(5));
  memory->stop_logging();
  memory->write(Gpa{6 * kPageSize}, bytes);
  EXPECT_FALSE(written.test(6));
}

TEST(RamBlock, SizeIsSealed) {
  auto block = RamBlock::create("ram0", MiB).value();
  EXPECT_NE(::ftruncate(block->fd(), 0), 0);
  EXPECT_NE(::ftruncate(block->fd(), 2 * MiB), 0);
  EXPECT_NE(::fcntl(block->fd(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  EXPECT_NE(::fcntl(block->fd(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(RamBlock, IsSharedThroughItsDescriptor) {
  auto block = RamBlock::create("ram0", MiB).value();
  auto other = Mapping::shared(block->fd(), kPageSize, kPageSize, PROT_READ).value();
  block->page(1)[17] = std::byte{0x42};
  EXPECT_EQ(other.data()[17], std::byte{0x42});
}

TEST(GuestMemory, AllocatedMemoryIsThereAndStillZero) {
  auto memory = GuestMemory::create(MiB).value();
  const int fd = memory->blocks()[0]->fd();
  struct stat before{};
  struct stat after{};
  ASSERT_EQ(::fstat(fd, &before), 0);
  ASSERT_TRUE(memory->allocate());
  ASSERT_EQ(::fstat(fd, &after), 0);
  EXPECT_EQ(before.st_blocks, 0);
  EXPECT_GE(after.st_blocks * 512, static_cast<off_t>(MiB));
  for (auto byte : memory->at(Gpa{0}, MiB))
    ASSERT_EQ(byte, std::byte{0});
}

}  // namespace
}  // namespace handover
