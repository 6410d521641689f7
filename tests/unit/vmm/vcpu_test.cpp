#include "vmm/synthetic/vcpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include <cstring>
#include <future>
#include <random>

#include "unit/memory/random_seed.h"
#include "unit/vmm/accelerator_rig.h"
#include "unit/vmm/state_bytes.h"

namespace handover::vmm::synthetic {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr auto kPatience = std::chrono::minutes(2);

class VcpuTest : public testing::Test {
 protected:
  template <class Condition>
  bool wait_for(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(1ms);
    }
    return true;
  }
  bool fill() {
    cpu->resume();
    return wait_for(
        [&] { return cpu->report().pages_filled * kPageSize == cpu->report().working_set_bytes; });
  }

  GuestOptions options{.working_set = 4 * MiB, .dirty_rate = 50 * MiB, .job_rate = 500, .seed = 7};
  std::unique_ptr<GuestMemory> memory = *GuestMemory::create(8 * MiB);
  AddressSpace bus{*memory};
  std::unique_ptr<SyntheticVcpu> cpu = *SyntheticVcpu::create(0, *memory, bus, options, 0);
};

TEST_F(VcpuTest, NothingRunsBeforeTheFirstResume) {
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(cpu->report().steps, 0u);
}

TEST_F(VcpuTest, PausedItTouchesNothing) {
  std::mt19937_64 random(test::random_seed());
  ASSERT_TRUE(fill());
  for (int round = 0; round < 20; ++round) {
    cpu->resume();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    cpu->pause();
    const auto bytes = memory->at(Gpa{0}, memory->size());
    const std::vector<std::byte> before(bytes.begin(), bytes.end());
    const std::uint64_t steps = cpu->report().steps;
    std::this_thread::sleep_for(3ms);
    EXPECT_EQ(cpu->report().steps, steps);
    EXPECT_EQ(std::memcmp(before.data(), bytes.data(), bytes.size()), 0);
    const auto verified = cpu->verify(1min);
    EXPECT_TRUE(verified) << verified.error().to_string();
  }
}

TEST_F(VcpuTest, ResumeAndPauseMayComeInAnyOrderAndNumber) {
  cpu->pause();
  cpu->pause();
  cpu->resume();
  cpu->resume();
  EXPECT_TRUE(wait_for([&] { return cpu->report().steps > 3; }));
  cpu->pause();
  cpu->resume();
  EXPECT_TRUE(wait_for([&] { return cpu->report().steps > 6; }));
}

TEST_F(VcpuTest, ItsRegistersMoveToAnotherCpuThatGoesOn) {
  ASSERT_TRUE(fill());
  cpu->pause();
  auto& state = cpu->state();
  const auto bytes = test::bytes_of([&](StreamWriter& out) { return state.save_state(out); });

  auto memory_there = *GuestMemory::create(8 * MiB);
  AddressSpace bus_there(*memory_there);
  auto there = *SyntheticVcpu::create(0, *memory_there, bus_there, {.seed = 99}, 0);
  std::ranges::copy(memory->at(Gpa{0}, memory->size()), memory_there->at(Gpa{0}, memory->size()).begin());
  const Status loaded = test::load_from(
      bytes, [&](StreamReader& in) { return there->state().load_state(in, state.version_id()); });
  ASSERT_TRUE(loaded) << loaded.error().to_string();
  EXPECT_EQ(there->report().pages_written, cpu->report().pages_written);
  ASSERT_TRUE(there->verify(1min));
  there->resume();
  const std::uint64_t before = cpu->report().pages_written;
  EXPECT_TRUE(wait_for([&] { return there->report().pages_written > before + 100; }));
  EXPECT_TRUE(there->verify(kPatience));
}

TEST_F(VcpuTest, InterruptsOfAPausedCpuAreAmongItsRegisters) {
  cpu->message(kMessageBase, 200);
  cpu->message(kMessageBase | 1 << 12, 201);  // for another CPU
  cpu->message(0x1000, 202);                  // no interrupt at all
  const auto bytes = test::bytes_of([&](StreamWriter& out) { return cpu->state().save_state(out); });
  auto there = *SyntheticVcpu::create(0, *memory, bus, options, 0);
  ASSERT_TRUE(test::load_from(
      bytes, [&](StreamReader& in) { return there->state().load_state(in, there->state().version_id()); }));
  there->resume();
  EXPECT_TRUE(wait_for([&] { return there->report().interrupts == 1; }));
  EXPECT_EQ(there->report().spurious_interrupts, 1u);
}

TEST_F(VcpuTest, AMismatchStopsTheGuestAndSaysWhere) {
  ASSERT_TRUE(fill());
  std::promise<std::string> told;
  cpu->on_panic([&](std::string reason) { told.set_value(std::move(reason)); });
  cpu->pause();
  const auto layout = Layout::plan(memory->size(), 0, options.working_set).value();
  for (std::uint64_t page = 0; page < layout.working_set_pages; ++page)
    memory->at(layout.page(page), 8)[7] ^= std::byte{0x80};
  cpu->resume();
  auto reason = told.get_future();
  ASSERT_EQ(reason.wait_for(kPatience), std::future_status::ready);
  EXPECT_THAT(reason.get(), HasSubstr("of the working set"));
  cpu->pause();
  EXPECT_EQ(cpu->report().mismatches, 1u);
  EXPECT_THAT(cpu->report().panic, HasSubstr("expected"));
  const std::uint64_t steps = cpu->report().steps;
  cpu->resume();
  std::this_thread::sleep_for(10ms);
  EXPECT_EQ(cpu->report().steps, steps) << "a broken guest does not run again";
  EXPECT_FALSE(cpu->verify(1min));
}

TEST_F(VcpuTest, AVerificationThatNobodyCarriesOutTimesOut) {
  test::WaitingSink sink;
  cpu->resume();
  ASSERT_TRUE(wait_for([&] { return cpu->report().steps > 0; }));
  const auto verified = cpu->verify(0ms);
  if (!verified) {
    EXPECT_EQ(verified.error().code(), Errc::timeout);
  }
  EXPECT_TRUE(cpu->verify(kPatience)) << "and the next one is carried out";
}

TEST_F(VcpuTest, AVerificationCanBeCancelled) {
  cpu->resume();
  CancelSource cancel;
  cancel.cancel("enough");
  const auto verified = cpu->verify(kPatience, cancel.token());
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code(), Errc::cancelled);
  EXPECT_TRUE(cpu->verify(kPatience));
}

TEST_F(VcpuTest, AGuestThatDoesNotFitIsRefused) {
  EXPECT_FALSE(SyntheticVcpu::create(0, *memory, bus, {.working_set = 16 * MiB}, 0));
  EXPECT_FALSE(SyntheticVcpu::create(0, *memory, bus, {}, 31));
}

/// Hands on to a CPU that is made later and goes earlier.
class Relay final : public InterruptSink {
 public:
  void message(std::uint64_t address, std::uint32_t data) override {
    std::lock_guard lock(mutex_);
    if (target_) target_->message(address, data);
  }
  /// When this returns, the one before is not called any more.
  void set(InterruptSink* target) {
    std::lock_guard lock(mutex_);
    target_ = target;
  }

 private:
  std::mutex mutex_;
  InterruptSink* target_ = nullptr;
};

TEST(VcpuWithDevice, PausedAndResumedUnderLoadNothingIsLost) {
  std::mt19937_64 random(test::random_seed());
  Relay relay;
  test::AcceleratorRig rig(relay);
  auto cpu = *SyntheticVcpu::create(
      0, *rig.memory, rig.bus,
      {.working_set = 2 * MiB, .dirty_rate = 20 * MiB, .job_rate = 2000, .seed = random()}, 1);
  relay.set(cpu.get());
  for (int round = 0; round < 20; ++round) {
    rig.running(true);
    cpu->resume();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    cpu->pause();
    rig.running(false);
    rig.device.stop();
    rig.front->collect_interrupts();
    rig.device.start();
  }
  rig.running(true);
  cpu->resume();
  const auto verified = cpu->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(verified->devices, 1u);
  const auto report = cpu->report();
  EXPECT_GT(report.jobs_completed, 0u);
  EXPECT_EQ(report.interrupts_lost, 0u);
  EXPECT_EQ(report.panic, "");
  cpu->pause();
  relay.set(nullptr);
}

}  // namespace
}  // namespace handover::vmm::synthetic
