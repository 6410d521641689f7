#include "devices/accelerator/registers.h"

#include <gtest/gtest.h>

namespace handover::accelerator {
namespace {

constexpr std::uint64_t kMemory = 0x1'2345'6000;
constexpr auto kOnes = ~std::uint64_t{0};

Registers enabled_queue(std::uint32_t entries = 8) {
  Registers registers;
  registers.write(reg::kRingAddress, 8, 0x10000);
  registers.write(reg::kCompletionAddress, 8, 0x20000);
  registers.write(reg::kRingEntries, 4, entries);
  registers.write(reg::kControl, 4, kControlEnable);
  return registers;
}
std::uint64_t status(const Registers& registers, bool draining = false) {
  return registers.read(reg::kStatus, 4, kMemory, draining);
}

TEST(Registers, ReadInFourOrEightAlignedBytesOrAsOnes) {
  const Registers registers;
  EXPECT_EQ(registers.read(reg::kId, 4, kMemory, false), kIdValue);
  EXPECT_EQ(registers.read(reg::kId, 8, kMemory, false), std::uint64_t{1} << 32 | kIdValue);
  EXPECT_EQ(registers.read(reg::kMemorySize, 8, kMemory, false), kMemory);
  EXPECT_EQ(registers.read(reg::kMemorySize + 4, 4, kMemory, false), 1u);
  for (const std::size_t width : {1, 2, 3, 5, 7, 16})
    EXPECT_EQ(registers.read(0, width, kMemory, false), kOnes);
  EXPECT_EQ(registers.read(2, 4, kMemory, false), kOnes);
  EXPECT_EQ(registers.read(4, 8, kMemory, false), kOnes);
  EXPECT_EQ(registers.read(0xff8, 8, kMemory, false), 0u);
}

TEST(Registers, OtherAccessesWriteNothing) {
  Registers registers;
  registers.write(reg::kRingAddress, 2, 0xffff);
  registers.write(reg::kRingAddress + 2, 4, 0xffff);
  registers.write(reg::kMemorySize, 8, 5);
  registers.write(reg::kStatus, 4, 0xffffffff);
  EXPECT_EQ(registers.ring_address, 0u);
  EXPECT_EQ(registers.read(reg::kMemorySize, 8, kMemory, false), kMemory);
  EXPECT_EQ(status(registers), kStatusReady);
}

TEST(Registers, HalvesOfWideRegistersCanBeWrittenApart) {
  Registers registers;
  registers.write(reg::kRingAddress + 4, 4, 0x12);
  registers.write(reg::kRingAddress, 4, 0x3000);
  EXPECT_EQ(registers.read(reg::kRingAddress, 8, kMemory, false), 0x12'0000'3000u);
}

TEST(Registers, RingIsFixedWhileEnabled) {
  Registers registers = enabled_queue();
  registers.write(reg::kRingAddress, 8, 7);
  registers.write(reg::kRingEntries, 4, 16);
  EXPECT_EQ(registers.ring_address, 0x10000u);
  EXPECT_EQ(registers.ring_entries, 8u);
  EXPECT_EQ(status(registers), kStatusReady | kStatusEnabled);
}

TEST(Registers, BadRingIsAnErrorUntilDisabled) {
  for (const std::uint32_t entries : {0u, 1u, 3u, 6u, 8192u, 0xffffffffu}) {
    Registers registers = enabled_queue(entries);
    EXPECT_EQ(status(registers), kStatusReady | kStatusEnabled | kStatusError) << entries;
    registers.write(reg::kDoorbell, 4, 1);
    EXPECT_FALSE(registers.has_work());
    registers.write(reg::kControl, 4, 0);
    EXPECT_EQ(status(registers), kStatusReady);
  }
  Registers registers;
  registers.write(reg::kRingAddress, 8, kOnes - 63);
  registers.write(reg::kRingEntries, 4, 2);
  registers.write(reg::kControl, 4, kControlEnable);
  EXPECT_TRUE(registers.error) << "a ring that runs over the end of the address space";
}

TEST(Registers, DoorbellBeyondTheRingOrBackwardsIsAnError) {
  Registers registers = enabled_queue();
  EXPECT_EQ(registers.write(reg::kDoorbell, 4, 8), Registers::Effect::look);
  EXPECT_TRUE(registers.has_work());
  EXPECT_EQ(registers.write(reg::kDoorbell, 4, 9), Registers::Effect::drop);
  EXPECT_TRUE(registers.error);

  registers = enabled_queue();
  registers.submitted = registers.completed = 5;
  registers.write(reg::kDoorbell, 4, 4);
  EXPECT_TRUE(registers.error);
}

TEST(Registers, PlaceOfARecordThatIsBeingWrittenCanBeUsedAgain) {
  Registers registers = enabled_queue();
  registers.completing = true;
  registers.write(reg::kDoorbell, 4, 9);
  EXPECT_FALSE(registers.error);
  registers.write(reg::kDoorbell, 4, 10);
  EXPECT_TRUE(registers.error);
}

TEST(Registers, CountsRunFreelyOverTheirEnd) {
  Registers registers = enabled_queue();
  registers.submitted = registers.completed = 0xfffffffe;
  registers.write(reg::kDoorbell, 4, 3);
  EXPECT_FALSE(registers.error);
  EXPECT_EQ(registers.descriptor_address(), 0x10000u + 6 * sizeof(Descriptor));
  registers.completed += 3;
  EXPECT_EQ(registers.record_address(), 0x20000u + 1 * sizeof(CompletionRecord));
}

TEST(Registers, EnablingStartsCountsAtZeroAndKeepsTheTotals) {
  Registers registers = enabled_queue();
  registers.submitted = 5;
  registers.completed = 3;
  registers.jobs_done = 33;
  EXPECT_EQ(registers.write(reg::kControl, 4, 0), Registers::Effect::drop);
  EXPECT_EQ(registers.write(reg::kControl, 4, kControlEnable | kControlInterrupt | 0xf0),
            Registers::Effect::look);
  EXPECT_EQ(registers.control, kControlEnable | kControlInterrupt);
  EXPECT_EQ(registers.read(reg::kCompleted, 4, kMemory, false), 0u);
  EXPECT_EQ(registers.read(reg::kJobsDone, 8, kMemory, false), 33u);
}

TEST(Registers, DrainingShowsAsEnabled) {
  EXPECT_EQ(status(Registers{}, true), kStatusReady | kStatusEnabled);
}

}  // namespace
}  // namespace handover::accelerator
