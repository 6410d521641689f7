// How a device is lost, without a kernel: the eventfd is signalled here.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <optional>
#include <thread>

#include "vfio_kernel/loss.h"
#include "vfio_kernel/removal_watch.h"

namespace handover::vfio_kernel {
namespace {

using testing::HasSubstr;

UniqueFd make_event() {
  return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}
void signal(int event) {
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(event, &one, sizeof one), static_cast<ssize_t>(sizeof one));
}

TEST(Loss, FailsEveryCheckFromThenOnWithTheFirstReason) {
  Loss loss;
  EXPECT_FALSE(loss.lost());
  EXPECT_TRUE(loss.check());
  loss.lose("it went");
  loss.lose("it went again");
  EXPECT_TRUE(loss.lost());
  const auto status = loss.check();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Errc::closed);
  EXPECT_EQ(status.error().to_string(), "it went");
}

TEST(Loss, TellsEveryHandlerOnceWheneverItComes) {
  // Handlers come from one thread while two others lose the device.
  for (int round = 0; round < 200; ++round) {
    Loss loss;
    constexpr std::size_t kHandlers = 50;
    std::array<std::atomic<int>, kHandlers> told{};
    std::jthread first([&] { loss.lose("one"); });
    std::jthread second([&] { loss.lose("two"); });
    for (auto& each : told)
      loss.on_lost([&](const std::string& reason) {
        EXPECT_THAT(reason, testing::AnyOf("one", "two"));
        EXPECT_TRUE(loss.lost());
        ++each;
      });
    first.join();
    second.join();
    for (const auto& each : told)
      EXPECT_EQ(each, 1);
  }
}

TEST(Loss, AHandlerMayAskAndRegister) {
  Loss loss;
  int inner = 0;
  loss.on_lost([&](const std::string&) {
    EXPECT_FALSE(loss.check());
    loss.on_lost([&](const std::string&) { ++inner; });
  });
  loss.lose("it went");
  EXPECT_EQ(inner, 1);
}

TEST(RemovalWatch, TellsOnceHoweverOftenTheKernelAsks) {
  auto event = make_event();
  const auto kernel = event.duplicate();
  std::promise<void> asked;
  std::atomic<int> times = 0;
  std::optional<RemovalWatch> watch;
  watch.emplace(std::move(event), [&] {
    if (++times == 1) asked.set_value();
  });
  for (int i = 0; i < 5; ++i)
    signal(kernel.get());
  ASSERT_EQ(asked.get_future().wait_for(std::chrono::minutes(2)), std::future_status::ready);
  for (int i = 0; i < 5; ++i)
    signal(kernel.get());
  watch.reset();
  EXPECT_EQ(times, 1);
}

TEST(RemovalWatch, EndsWithoutBeingAsked) {
  bool asked = false;
  {
    const RemovalWatch watch(make_event(), [&] { asked = true; });
  }
  EXPECT_FALSE(asked);
}

TEST(RemovalWatch, EndsWhileItIsAsked) {
  // What the handler uses lives longer than the watch and no longer.
  for (int round = 0; round < 300; ++round) {
    auto times = std::make_unique<std::atomic<int>>(0);
    auto event = make_event();
    const auto kernel = event.duplicate();
    std::optional<RemovalWatch> watch;
    watch.emplace(std::move(event), [&] { ++*times; });
    std::jthread asking([&] { signal(kernel.get()); });
    watch.reset();
    EXPECT_LE(*times, 1);
    times.reset();
  }
}

}  // namespace
}  // namespace handover::vfio_kernel
