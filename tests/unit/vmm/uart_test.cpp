// A device with I/O ports and an interrupt line: how the machine shows it to the guest, and the guest's
// driver.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vmm/accelerator_rig.h"
#include "unit/vmm/state_bytes.h"
#include "unit/vmm/uart_device.h"
#include "vmm/synthetic/program.h"

namespace handover::vmm {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint32_t kSlot = 3;
constexpr std::uint32_t kVector = lines::kLineVector + kSlot;

/// Guest memory, a bus and a UART in slot 3.
struct UartRig {
  explicit UartRig(InterruptSink& sink) {
    interrupts.start_thread();
    front = PciDevice::attach(device, kSlot, {bus, *memory, sink, interrupts}).value();
    pci.plug(*front);
  }
  ~UartRig() {
    pci.unplug(*front);
    front.reset();
  }
  void running(bool on) {
    (void)front->change(on ? RunState::paused : RunState::running, on ? RunState::running : RunState::paused);
  }
  void write16(std::uint32_t reg, std::uint16_t value) {
    bus.store<std::uint16_t>(Gpa{kEcamBase + kSlot * kEcamSlotBytes + reg}, value);
  }
  void handled() { bus.store<std::uint32_t>(lines::kBase + lines::kEndOfInterrupt, kSlot); }
  std::vector<std::byte> saved() {
    return test::bytes_of([&](StreamWriter& out) { return front->save(out); });
  }

  std::unique_ptr<GuestMemory> memory = GuestMemory::create(4 * MiB).value();
  AddressSpace bus{*memory};
  PciBus pci{bus};
  EventLoop interrupts{"test-interrupts"};
  test::UartDevice device;
  std::unique_ptr<PciDevice> front;
};

class UartTest : public testing::Test {
 protected:
  /// As the guest's driver does it.
  Gpa bring_up(UartRig& of) {
    of.running(true);
    synthetic::PciSetup setup(of.bus);
    EXPECT_TRUE(setup.place_bars(kSlot));
    setup.enable_line(kSlot);
    return Gpa{setup.ports(kSlot, 0)};
  }
  test::WaitingSink sink;
  UartRig rig{sink};
};

TEST_F(UartTest, PortsAnswerWhereTheyWerePlacedAndOnlyWhileDecodingIsOn) {
  const auto ports = bring_up(rig);
  rig.bus.store<std::uint8_t>(ports + synthetic::uart::kScratch, 0x5a);
  EXPECT_EQ(rig.bus.load<std::uint8_t>(ports + synthetic::uart::kScratch), 0x5a);
  EXPECT_EQ(rig.bus.load<std::uint8_t>(ports + 8), 0xff) << "the BAR has 8 ports";
  rig.write16(pci::kCommand, pci::kCommandMemory);
  EXPECT_EQ(rig.bus.load<std::uint8_t>(ports + synthetic::uart::kScratch), 0xff);
}

TEST_F(UartTest, AConfigSpaceOf255BytesIsFilledUpWithZeros) {
  EXPECT_EQ(rig.bus.load<std::uint32_t>(Gpa{kEcamBase + kSlot * kEcamSlotBytes + 252}), 0u);
  EXPECT_EQ(rig.bus.load<std::uint16_t>(Gpa{kEcamBase + kSlot * kEcamSlotBytes}), synthetic::kUartVendor);
}

TEST_F(UartTest, TheLineTellsOnceUntilItWasHandled) {
  bring_up(rig);
  rig.device.raise();
  EXPECT_THAT(sink.wait_for(1), ElementsAre(kVector));
  rig.device.raise();  // masked
  rig.handled();
  EXPECT_EQ(rig.device.unmasked, 1);
  rig.handled();  // of nothing
  EXPECT_EQ(rig.device.unmasked, 1);
  rig.device.raise();
  EXPECT_THAT(sink.wait_for(2), ElementsAre(kVector, kVector));
}

TEST_F(UartTest, ALineThatTheGuestSwitchedOffTellsWhenItIsOnAgain) {
  bring_up(rig);
  rig.write16(pci::kCommand, pci::kCommandIo | pci::kCommandIntxDisable);
  rig.device.raise();
  rig.front->collect_interrupts();
  EXPECT_THAT(sink.taken(), IsEmpty());
  rig.write16(pci::kCommand, pci::kCommandIo);
  EXPECT_THAT(sink.wait_for(1), ElementsAre(kVector));
}

TEST_F(UartTest, ALineThatIsUpMovesAndTellsTheGuestThere) {
  bring_up(rig);
  rig.running(false);
  rig.device.raise();
  rig.front->collect_interrupts();
  EXPECT_THAT(sink.taken(), IsEmpty());

  test::WaitingSink there;
  UartRig destination(there);
  ASSERT_TRUE(test::load_from(rig.saved(), [&](StreamReader& in) { return destination.front->load(in); }));
  ASSERT_TRUE(destination.front->apply());
  EXPECT_THAT(there.taken(), IsEmpty());
  destination.running(true);
  EXPECT_THAT(there.wait_for(1), ElementsAre(kVector));
  destination.handled();
  EXPECT_EQ(destination.device.unmasked, 1);
}

TEST_F(UartTest, ALineThatTheDeviceDoesNotHaveIsRefused) {
  auto bytes = rig.saved();
  bytes[4 + 256 + 4 + 3] = std::byte{1};  // INTB
  const auto loaded =
      test::load_from(std::move(bytes), [&](StreamReader& in) { return rig.front->load(in); });
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().to_string(), HasSubstr("INTB"));
}

TEST_F(UartTest, ADeviceWithAnotherPinIsRefused) {
  auto bytes = rig.saved();
  bytes[4 + pci::kInterruptPin] = std::byte{0};
  const auto loaded =
      test::load_from(std::move(bytes), [&](StreamReader& in) { return rig.front->load(in); });
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().to_string(), HasSubstr("interrupt pin 0x1 here and 0x0 in the stream"));
}

TEST_F(UartTest, DetachingTakesTheLineAway) {
  EXPECT_TRUE(rig.device.line_installed());
  rig.pci.unplug(*rig.front);
  rig.front.reset();
  EXPECT_FALSE(rig.device.line_installed());
  rig.front = PciDevice::attach(rig.device, kSlot, {rig.bus, *rig.memory, sink, rig.interrupts}).value();
  rig.pci.plug(*rig.front);
}

/// A guest that drives the UART, led step by step.
class UartGuest : public UartTest {
 protected:
  void SetUp() override {
    rig.running(true);
    registers.ram_size = rig.memory->size();
    registers.working_set_pages =
        synthetic::Layout::plan(rig.memory->size(), 1, 1 * MiB).value().working_set_pages;
    registers.device_limit = 1;
    registers.seed = registers.random = 42;
    registers.job_rate = 1000;
    program.emplace(*rig.memory, rig.bus, registers);
  }
  Result<bool> step() {
    for (const auto vector : sink.taken())
      if (++seen_ > handled_) {
        registers.interrupt_requests[vector / 64] |= std::uint64_t{1} << (vector % 64);
        ++handled_;
      }
    seen_ = 0;
    return program->step(1ms);
  }
  void run(int rounds) {
    const auto end = registers.uarts.empty() ? 0 : registers.uarts[0].rounds;
    for (int i = 0; i < 1'000'000; ++i) {
      const auto done = step();
      ASSERT_TRUE(done) << done.error().to_string();
      if (registers.uarts[0].rounds >= end + static_cast<std::uint64_t>(rounds)) return;
      rig.front->collect_interrupts();
    }
    FAIL() << "the guest makes no rounds";
  }
  synthetic::Registers registers;
  std::optional<synthetic::Program> program;

 private:
  std::size_t seen_ = 0, handled_ = 0;
};

TEST_F(UartGuest, WhatIsSentComesBackAndAnInterruptTells) {
  run(50);
  EXPECT_EQ(registers.uarts[0].sent, 50u * 12);
  EXPECT_EQ(registers.uarts[0].received, 49u * 12) << "the last burst is in the FIFO";
  EXPECT_GE(registers.interrupts, 49u);
  EXPECT_EQ(registers.interrupts_lost, 0u);
}

TEST_F(UartGuest, ALostByteIsFound) {
  run(5);
  rig.device.fifo.pop_back();
  Result<bool> done = true;
  for (int i = 0; i < 100'000 && done; ++i) {
    done = step();
    rig.front->collect_interrupts();
  }
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().to_string(), HasSubstr("UART 0 (PCI slot 3): data ready"));
}

TEST_F(UartGuest, AChangedByteIsFoundByAVerification) {
  run(5);
  rig.device.fifo[3] ^= 1;
  program->begin_verification();
  Result<bool> done = true;
  for (int i = 0; i < 100'000 && done && !program->verified(); ++i)
    done = step();
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().to_string(), HasSubstr("next byte of its FIFO"));
}

TEST_F(UartGuest, InterruptsThatNeverComeAreCountedAndItGoesOn) {
  run(2);
  rig.device.drop_interrupts = true;
  run(2);
  EXPECT_GE(registers.interrupts_lost, 1u);
}

TEST_F(UartGuest, ADeviceThatIsGoneIsGivenUp) {
  run(2);
  rig.device.bytes_until_gone = 5;  // in the middle of a burst
  for (int i = 0; i < 5000 && registers.uarts[0].state == synthetic::DeviceRegisters::kRunning; ++i)
    ASSERT_TRUE(step());
  EXPECT_EQ(registers.uarts[0].state, synthetic::DeviceRegisters::kLost);
}

}  // namespace
}  // namespace handover::vmm
