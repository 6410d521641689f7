#include "handover/memory/dirty_source.h"

#include <gtest/gtest.h>

namespace handover {
namespace {

TEST(DirtyMemory, MarksTheBlockPagesOfAGuestPhysicalRange) {
  auto memory = GuestMemory::create(4 * GiB).value();
  DirtyMemory dirty(*memory);
  auto& bitmap = dirty.of(*memory->blocks()[0]);
  EXPECT_EQ(dirty.mark(Gpa{kPageSize - 1}, 2), 2u);
  EXPECT_TRUE(bitmap.test(0));
  EXPECT_TRUE(bitmap.test(1));
  // Above the hole: the block goes on where the low part ended.
  EXPECT_EQ(dirty.mark(Gpa{GuestMemory::kHoleEnd}, 1), 1u);
  EXPECT_TRUE(bitmap.test(GuestMemory::kHoleStart / kPageSize));
  EXPECT_EQ(dirty.mark(Gpa{GuestMemory::kHoleEnd}, kPageSize), 0u);
  EXPECT_EQ(dirty.count(), 3u);
}

TEST(DirtyMemory, IgnoresWhatIsNoRam) {
  auto memory = GuestMemory::create(4 * GiB).value();
  DirtyMemory dirty(*memory);
  EXPECT_EQ(dirty.mark(Gpa{GuestMemory::kHoleStart}, GiB), 0u);
  EXPECT_EQ(dirty.mark(Gpa{0}, 0), 0u);
  EXPECT_EQ(dirty.mark(Gpa{5 * GiB}, 1), 0u);
  // Over the hole: one page on either side.
  EXPECT_EQ(dirty.mark(Gpa{GuestMemory::kHoleStart - 1}, GiB + 2), 2u);
}

TEST(DirtyMemory, MarksUpToTheEndOfTheAddressSpaceWithoutOverflow) {
  auto memory = GuestMemory::create(MiB).value();
  DirtyMemory dirty(*memory);
  EXPECT_EQ(dirty.mark(Gpa{MiB - 1}, ~std::uint64_t{0}), 1u);
  EXPECT_EQ(dirty.mark(Gpa{~std::uint64_t{0}}, ~std::uint64_t{0}), 0u);
  EXPECT_EQ(dirty.count(), 1u);
}

TEST(ProcessWrites, ReportsEachWriteOnceAndOnlyWhileStarted) {
  auto memory = GuestMemory::create(MiB).value();
  DirtyMemory dirty(*memory);
  ProcessWrites source(*memory);
  const std::byte one[1]{std::byte{1}};
  memory->write(Gpa{0}, one);
  ASSERT_TRUE(source.start());
  memory->write(Gpa{3 * kPageSize}, one);
  ASSERT_TRUE(source.sync(dirty, DirtySync::round));
  EXPECT_EQ(dirty.count(), 1u);
  EXPECT_TRUE(dirty.of(*memory->blocks()[0]).test(3));
  dirty.of(*memory->blocks()[0]).clear();
  ASSERT_TRUE(source.sync(dirty, DirtySync::round));
  EXPECT_EQ(dirty.count(), 0u);
  source.stop();
  EXPECT_FALSE(memory->logging());
}

TEST(ProcessWrites, StopIsIdempotentAndStartsAgain) {
  auto memory = GuestMemory::create(MiB).value();
  DirtyMemory dirty(*memory);
  ProcessWrites source(*memory);
  source.stop();
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.start());
  const std::byte one[1]{std::byte{1}};
  memory->write(Gpa{0}, one);
  source.stop();
  source.stop();
  EXPECT_FALSE(memory->logging());
  // What the first time left behind is not reported the second time.
  ASSERT_TRUE(source.start());
  ASSERT_TRUE(source.sync(dirty, DirtySync::round));
  EXPECT_EQ(dirty.count(), 0u);
  source.stop();
}

}  // namespace
}  // namespace handover
