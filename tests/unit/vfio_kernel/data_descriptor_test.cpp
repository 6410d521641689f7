// Reading a device's data descriptor, with a pipe for a driver that produces its state by and by.

#include "vfio_kernel/data_descriptor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

#include "handover/base/unique_fd.h"
#include "vfio_kernel/loss.h"

namespace handover::vfio_kernel {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using vfio::StateRead;

class DataDescriptor : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    data.reset(ends[0]);
    driver.reset(ends[1]);
  }
  Result<StateRead> read(bool stopped, std::chrono::milliseconds patience = 60s) {
    return read_state(data.get(), stopped, buffer, loss.token(), patience);
  }
  void produce(std::size_t bytes) {
    const std::vector<std::byte> state(bytes);
    ASSERT_EQ(::write(driver.get(), state.data(), bytes), static_cast<ssize_t>(bytes));
  }
  UniqueFd data, driver;
  Loss loss;
  std::array<std::byte, 64> buffer{};
};

TEST_F(DataDescriptor, WhileTheDeviceRunsNobodyWaitsForIt) {
  const auto none = read(false);
  ASSERT_TRUE(none) << none.error().to_string();
  EXPECT_EQ(none->kind, StateRead::Kind::nothing_now);
  produce(10);
  const auto some = read(false);
  ASSERT_TRUE(some);
  EXPECT_EQ(some->kind, StateRead::Kind::data);
  EXPECT_EQ(some->bytes, 10u);
}

TEST_F(DataDescriptor, OfAStoppedDeviceTheNextPieceIsWaitedFor) {
  std::thread later([this] {
    std::this_thread::sleep_for(20ms);
    produce(7);
  });
  const auto some = read(true);
  later.join();
  ASSERT_TRUE(some) << some.error().to_string();
  EXPECT_EQ(some->bytes, 7u);
  driver.reset();
  const auto end = read(true);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, StateRead::Kind::end);
}

TEST_F(DataDescriptor, TheEndOfADescriptorIsNoEndWhileTheDeviceRuns) {
  driver.reset();
  const auto none = read(false);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->kind, StateRead::Kind::nothing_now);
}

TEST_F(DataDescriptor, ADeviceThatGivesNothingMoreFails) {
  const auto failed = read(true, 5ms);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Errc::timeout);
  EXPECT_THAT(failed.error().to_string(), HasSubstr("nothing more of its state for 5 ms"));
}

TEST_F(DataDescriptor, TheLossOfTheDeviceEndsTheWait) {
  std::thread host([this] {
    std::this_thread::sleep_for(20ms);
    loss.lose("the host wants it");
  });
  const auto failed = read(true, 1h);
  host.join();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Errc::cancelled);
}

TEST_F(DataDescriptor, ABadDescriptorIsAnError) {
  EXPECT_FALSE(read_state(driver.get(), true, buffer, {}, 5ms)) << "a pipe's other end cannot be read";
  EXPECT_FALSE(write_state(data.get(), buffer));
  EXPECT_TRUE(write_state(driver.get(), buffer));
}

}  // namespace
}  // namespace handover::vfio_kernel
