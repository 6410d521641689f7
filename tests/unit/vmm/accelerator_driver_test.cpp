#include "vmm/synthetic/accelerator_driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "unit/memory/random_seed.h"
#include "unit/vmm/accelerator_rig.h"
#include "vmm/synthetic/program.h"

namespace handover::vmm::synthetic {
namespace {

using namespace std::chrono_literals;
using testing::AnyOf;
using testing::HasSubstr;

/// Collects vectors for the next step.
class Requests final : public InterruptSink {
 public:
  void message(std::uint64_t, std::uint32_t data) override {
    bits_[data / 64 % 4].fetch_or(std::uint64_t{1} << data % 64);
  }
  void take(Registers& registers) {
    for (std::size_t i = 0; i < 4; ++i)
      registers.interrupt_requests[i] |= bits_[i].exchange(0);
  }

 private:
  std::array<std::atomic<std::uint64_t>, 4> bits_{};
};

/// A guest that drives an accelerator, led step by step: its clock is the test's, the device runs in real
/// time.
class AcceleratorDriverTest : public testing::Test {
 protected:
  AcceleratorDriverTest() {
    registers.ram_size = rig.memory->size();
    registers.device_limit = 1;
    registers.working_set_pages = Layout::plan(registers.ram_size, 1, 1 * MiB).value().working_set_pages;
    registers.seed = registers.random = test::random_seed();
    registers.job_rate = 2000;
    registers.fill_next = registers.working_set_pages;
    rig.running(true);
  }

  Status step(std::chrono::nanoseconds elapsed = 1ms) {
    requests.take(registers);
    auto done = program().step(elapsed);
    if (!done) return std::unexpected(std::move(done).error());
    return {};
  }
  /// Until the condition holds; real time passes only where the device is waited for.
  template <class Condition>
  Status run_until(Condition condition, std::chrono::nanoseconds elapsed = 1ms) {
    const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > patience)
        return fail(Errc::timeout, "the condition never came true");
      HANDOVER_TRY(step(elapsed));
      std::this_thread::sleep_for(50us);
    }
    return {};
  }
  Status run_jobs(std::uint64_t count) {
    const std::uint64_t end = registers.jobs_completed + count;
    return run_until([&] { return registers.jobs_completed >= end; });
  }
  Result<VerifyReport> verify() {
    program().begin_verification();
    HANDOVER_TRY(run_until([&] { return program().verified().has_value(); }));
    auto report = *program().verified();
    program().end_verification();
    return report;
  }
  Program& program() {
    if (!program_) program_ = std::make_unique<Program>(*rig.memory, rig.bus, registers);
    return *program_;
  }
  DeviceRegisters& device() { return registers.devices.at(0); }
  Gpa area(std::uint64_t offset) {
    return Layout::plan(registers.ram_size, 1, registers.working_set_pages * kPageSize)
               .value()
               .device_area(0) +
           offset;
  }

  Requests requests;
  test::AcceleratorRig rig{requests};
  Registers registers;
  std::unique_ptr<Program> program_;
};

TEST_F(AcceleratorDriverTest, JobsAreDoneAndEverythingChecksOut) {
  const Status ran = run_jobs(400);
  ASSERT_TRUE(ran) << ran.error().to_string();
  EXPECT_EQ(registers.device_count, 1u);
  EXPECT_GT(registers.interrupts, 0u);
  EXPECT_EQ(registers.interrupts_lost, 0u);
  EXPECT_GT(device().window_writes, 0u);
  const auto verified = verify();
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices, 1u);
  EXPECT_GT(verified->device_slots, 8u);
  EXPECT_EQ(registers.jobs_submitted, registers.jobs_completed);
}

TEST_F(AcceleratorDriverTest, ALostInterruptIsCountedAndTheJobsGoOn) {
  ASSERT_TRUE(run_jobs(20));
  rig.device.drop_interrupts = true;
  const Status lost = run_until([&] { return registers.interrupts_lost > 0; }, 10ms);
  ASSERT_TRUE(lost) << lost.error().to_string();
  rig.device.drop_interrupts = false;
  const Status on = run_jobs(20);
  EXPECT_TRUE(on) << on.error().to_string();
}

TEST_F(AcceleratorDriverTest, ADeadDeviceIsForgottenAndTheGuestGoesOn) {
  ASSERT_TRUE(run_jobs(20));
  rig.device.die();
  const Status ran = run_until([&] { return device().state == DeviceRegisters::kLost; }, 10ms);
  ASSERT_TRUE(ran) << ran.error().to_string();
  const std::uint64_t jobs = registers.jobs_submitted;
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(step());
  EXPECT_EQ(registers.jobs_submitted, jobs);
  const auto verified = verify();
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices_lost, 1u);
}

TEST_F(AcceleratorDriverTest, ADeviceThatIsDeadFromTheStartIsNone) {
  rig.device.die();
  ASSERT_TRUE(step());
  EXPECT_EQ(registers.device_count, 0u);
}

TEST_F(AcceleratorDriverTest, AFlippedBitOfDeviceMemoryIsFound) {
  std::mt19937_64 random(test::random_seed());
  ASSERT_TRUE(run_jobs(200));
  ASSERT_TRUE(verify());
  // COPY_IN on its way to the device: one wrong bit in the source of a job.
  registers.job_rate = 0;
  for (std::uint32_t i = 0; i < kMaxInFlight; ++i)
    rig.memory->at(area(DeviceArea::kSources + i * kSlotBytes), kSlotBytes)[random() % kSlotBytes] ^=
        std::byte{4};
  ASSERT_TRUE(verify()) << "sources of jobs that are done do not matter";
  rig.device.tamper = [&](Iova, std::vector<std::byte>& bytes) {
    if (bytes.size() > sizeof(accelerator::CompletionRecord)) bytes[bytes.size() / 2] ^= std::byte{0x10};
  };
  registers.job_rate = 2000;
  const Status ran = run_jobs(1000);
  ASSERT_FALSE(ran) << "a copy out with a wrong byte was taken";
  EXPECT_EQ(ran.error().code(), Errc::mismatch);
  EXPECT_THAT(ran.error().to_string(), HasSubstr("copied from slot"));
  EXPECT_EQ(registers.mismatches, 1u);
}

TEST_F(AcceleratorDriverTest, EveryKindOfBadCompletionIsFound) {
  struct Case {
    std::size_t offset;
    std::byte flip;
    const char* text;
  };
  const Case cases[] = {{0, std::byte{1}, "expected id"},
                        {8, std::byte{2}, "expected status"},
                        {12, std::byte{0x40}, "expected sequence"},
                        {17, std::byte{1}, "XXH3"}};
  for (const auto& wrong : cases) {
    Requests own_requests;
    test::AcceleratorRig own(own_requests);
    own.running(true);
    Registers own_registers = registers;
    Program own_program(*own.memory, own.bus, own_registers);
    own.device.tamper = [&](Iova, std::vector<std::byte>& bytes) {
      if (bytes.size() == sizeof(accelerator::CompletionRecord) &&
          (wrong.offset != 17 || load_le<std::uint64_t>(bytes.data() + 16) != 0))
        bytes[wrong.offset] ^= wrong.flip;
    };
    std::string found;
    const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (found.empty() && std::chrono::steady_clock::now() < patience) {
      own_requests.take(own_registers);
      if (auto done = own_program.step(1ms); !done) found = done.error().to_string();
      std::this_thread::sleep_for(50us);
    }
    EXPECT_THAT(found, HasSubstr(wrong.text));
  }
}

TEST_F(AcceleratorDriverTest, DamagedTablesAndCopiesInGuestMemoryAreFound) {
  std::mt19937_64 random(test::random_seed());
  ASSERT_TRUE(run_jobs(300));
  registers.job_rate = 0;
  ASSERT_TRUE(verify());
  const auto sound = registers;
  const std::uint64_t slots = device().memory_size / kSlotBytes - 1;  // the last is for staging
  for (int i = 0; i < 40; ++i) {
    Gpa at{};
    switch (i % 4) {
      case 0:
        at = area(DeviceArea::kSlotRecords + random() % (slots * kSlotRecordBytes));
        break;
      case 1:
        at = area(DeviceArea::kArchiveRecords + random() % (kArchiveEntries * kArchiveRecordBytes));
        break;
      case 2:
        at = area(DeviceArea::kWindowRecords + random() % (kWindowPages * kSlotRecordBytes));
        break;
      case 3: {
        const auto record = GuestRam(*rig.memory).load<ArchiveRecord>(area(DeviceArea::kArchiveRecords));
        if (record.valid == 0) continue;
        at = area(DeviceArea::kArchive + record.shift + random() % record.length());
        break;
      }
    }
    const auto bit = static_cast<std::byte>(1u << (random() % 8));
    rig.memory->at(at, 1)[0] ^= bit;
    const auto verified = verify();
    EXPECT_FALSE(verified) << "a flipped bit at " << at.value << " was not found";
    if (!verified) {
      EXPECT_EQ(verified.error().code(), Errc::mismatch) << verified.error().to_string();
    }
    rig.memory->at(at, 1)[0] ^= bit;
    program().end_verification();
    // Hash jobs that were under way when it stopped are finished before the next look.
    ASSERT_TRUE(run_until([&] { return device().submitted == device().completed; }));
  }
  EXPECT_TRUE(verify());
}

TEST_F(AcceleratorDriverTest, TheWindowOfTheDeviceIsCheckedOnBothWays) {
  ASSERT_TRUE(step()) << "boot";
  ASSERT_TRUE(run_until([&] { return device().window_writes > 200; }));
  registers.job_rate = 0;
  ASSERT_TRUE(verify());
  for (const std::uint64_t offset : {std::uint64_t{5}, 3 * kPageSize + 77}) {
    std::byte byte[1];
    ASSERT_TRUE(rig.device.region_read(accelerator::kBarWindow, offset, byte));
    byte[0] ^= std::byte{1};
    ASSERT_TRUE(rig.device.region_write(accelerator::kBarWindow, offset, byte));
    const auto verified = verify();
    ASSERT_FALSE(verified);
    EXPECT_THAT(verified.error().to_string(), HasSubstr("BAR 2"));
    program().end_verification();
    byte[0] ^= std::byte{1};
    ASSERT_TRUE(rig.device.region_write(accelerator::kBarWindow, offset, byte));
  }
}

TEST_F(AcceleratorDriverTest, AJobThatNeverEndsIsAMismatch) {
  ASSERT_TRUE(run_jobs(20));
  rig.device.stop();
  const Status ran = run_until([] { return false; }, 50ms);
  ASSERT_FALSE(ran);
  EXPECT_THAT(ran.error().to_string(), HasSubstr("never completed"));
  rig.device.start();
}

TEST_F(AcceleratorDriverTest, StoppedAndStartedAtRandomNoInterruptIsLost) {
  std::mt19937_64 random(test::random_seed());
  for (int round = 0; round < 20; ++round) {
    const Status ran = run_jobs(random() % 40);
    ASSERT_TRUE(ran) << ran.error().to_string();
    rig.running(false);
    rig.device.stop();
    rig.front->collect_interrupts();
    rig.device.start();
    rig.running(true);
  }
  const auto verified = verify();
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(registers.interrupts_lost, 0u);
}

}  // namespace
}  // namespace handover::vmm::synthetic
