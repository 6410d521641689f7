// Devices behind a real kernel's VFIO.  Runs inside the test machine (run-vm), which has made mediated
// devices of the sample driver mtty: HANDOVER_MTTY names two of one port each.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <numeric>

#include "handover/base/byte_order.h"
#include "handover/base/units.h"
#include "handover/vfio_abi/device_state.h"
#include "handover/vfio_kernel/open_device.h"
#include "vm_devices.h"

namespace handover::vfio_kernel {
namespace {

using testing::HasSubstr;
using vfio::DeviceState;
using vfio::StateRead;

std::size_t open_fds() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

// The UART of port 0, in BAR 0.
constexpr std::uint64_t kData = 0;
constexpr std::uint64_t kFifoControl = 2;
constexpr std::uint8_t kFifoOnAndEmpty = 7;
constexpr std::uint64_t kLineStatus = 5;
constexpr std::uint64_t kScratch = 7;

std::uint8_t uart_read(vfio::Device& device, std::uint64_t reg) {
  std::byte value{};
  EXPECT_TRUE(device.region_read(0, reg, {&value, 1}));
  return std::to_integer<std::uint8_t>(value);
}
void uart_write(vfio::Device& device, std::uint64_t reg, std::uint8_t value) {
  const auto byte = static_cast<std::byte>(value);
  EXPECT_TRUE(device.region_write(0, reg, {&byte, 1}));
}

std::vector<std::byte> read_all(vfio::MigrationProtocol& from, std::size_t piece) {
  std::vector<std::byte> state;
  std::vector<std::byte> buffer(piece);
  for (;;) {
    const auto read = from.read(buffer);
    EXPECT_TRUE(read) << read.error().to_string();
    if (!read) return state;
    state.insert(state.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(read->bytes));
    if (read->kind != StateRead::Kind::data) return state;
  }
}

class KernelDevice : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    names_ = vm_devices("HANDOVER_MTTY");
    ASSERT_EQ(names_.size(), 2u) << "HANDOVER_MTTY names two mediated devices";
  }
  std::unique_ptr<vfio::Device> open(std::size_t which) {
    auto device =
        open_device({.id = "mtty" + std::to_string(which), .where = names_[which], .path = GetParam()});
    EXPECT_TRUE(device) << device.error().to_string();
    if (!device) return nullptr;
    EXPECT_TRUE((*device)->reset());
    return std::move(*device);
  }
  void go(vfio::Device& device, DeviceState to) {
    const auto gone = device.migration()->set_state(to);
    EXPECT_TRUE(gone) << gone.error().to_string();
    EXPECT_EQ(device.migration()->state().value(), to);
  }
  std::vector<std::string> names_;
};

TEST_P(KernelDevice, IsReadAsItsDriverSaysIt) {
  const auto device = open(0);
  ASSERT_TRUE(device);
  EXPECT_NE(device->info().flags & vfio::kDeviceFlagPci, 0u);
  EXPECT_EQ(device->region(0).size, 8u);
  std::byte ids[4];
  ASSERT_TRUE(device->region_read(vfio::kRegionConfig, 0, ids));
  EXPECT_EQ(load_le<std::uint32_t>(ids), 0x32534348u);  // 4348:3253
  EXPECT_EQ(device->irq(vfio::kIrqMsi).count, 1u);
  EXPECT_EQ(device->irq(vfio::kIrqMsix).count, 0u);
  ASSERT_NE(device->migration(), nullptr);
  EXPECT_EQ(device->migration()->features(), 7u);
  EXPECT_FALSE(device->region_read(0, 8, ids)) << "behind the region";
}

TEST_P(KernelDevice, ItsStateMovesWithPreCopyInPiecesOfAnySize) {
  for (const std::size_t piece : {std::size_t{7}, std::size_t{16}, std::size_t{1} << 20}) {
    const auto source = open(0);
    const auto destination = open(1);
    ASSERT_TRUE(source && destination);
    uart_write(*source, kScratch, 0x5a);
    uart_write(*source, kFifoControl, kFifoOnAndEmpty);
    for (std::uint8_t i = 0; i < 10; ++i)
      uart_write(*source, kData, static_cast<std::uint8_t>(0x30 + i));
    EXPECT_NE(uart_read(*source, kLineStatus) & 1, 0) << "it loops back what is sent";
    go(*source, DeviceState::pre_copy);
    const auto info = source->migration()->precopy_info();
    ASSERT_TRUE(info && *info);
    EXPECT_EQ((**info).initial_bytes, 24u);
    auto state = read_all(*source->migration(), piece);
    EXPECT_EQ(state.size(), 24u);
    go(*source, DeviceState::pre_copy_p2p);
    EXPECT_EQ(source->migration()->stop_copy_size().value(), 60u);
    go(*source, DeviceState::stop_copy);
    const auto rest = read_all(*source->migration(), piece);
    state.insert(state.end(), rest.begin(), rest.end());
    EXPECT_EQ(state.size(), 60u);
    EXPECT_EQ(source->migration()->read(state)->kind, StateRead::Kind::end) << "and stays so";

    go(*destination, DeviceState::resuming);
    for (std::size_t at = 0; at < state.size(); at += piece)
      ASSERT_TRUE(
          destination->migration()->write(std::span(state).subspan(at, std::min(piece, state.size() - at))));
    go(*destination, DeviceState::running);
    EXPECT_EQ(uart_read(*destination, kScratch), 0x5a);
    for (std::uint8_t i = 0; i < 10; ++i) {
      EXPECT_NE(uart_read(*destination, kLineStatus) & 1, 0) << "byte " << int{i} << " of the FIFO";
      EXPECT_EQ(uart_read(*destination, kData), 0x30 + i);
    }
    EXPECT_EQ(uart_read(*destination, kLineStatus) & 1, 0);
    go(*source, DeviceState::stop);
  }
}

TEST_P(KernelDevice, WhatTheTableForbidsIsNeverAskedOfTheKernel) {
  const auto device = open(0);
  ASSERT_TRUE(device);
  go(*device, DeviceState::stop_copy);
  for (const auto to : {DeviceState::pre_copy, DeviceState::pre_copy_p2p, DeviceState::error}) {
    const auto refused = device->migration()->set_state(to);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().sys_errno(), 0) << "our own word, not the kernel's";
  }
  EXPECT_EQ(device->migration()->state().value(), DeviceState::stop_copy);
  go(*device, DeviceState::running);
}

TEST_P(KernelDevice, AnIncompleteStateIsRefusedAndAResetHelps) {
  const auto device = open(1);
  ASSERT_TRUE(device);
  go(*device, DeviceState::resuming);
  EXPECT_FALSE(device->migration()->set_state(DeviceState::running));
  EXPECT_EQ(device->migration()->state().value(), DeviceState::resuming);
  ASSERT_TRUE(device->reset());
  EXPECT_EQ(device->migration()->state().value(), DeviceState::running);
  std::byte none[16];
  EXPECT_FALSE(device->migration()->read(none));
}

TEST_P(KernelDevice, ManyRoundsLeaveNothingBehind) {
  std::size_t before = 0;
  for (int round = 0; round < 200; ++round) {
    if (round == 1) before = open_fds();
    if (round > 1) {
      ASSERT_EQ(open_fds(), before) << "round " << round;
    }
    const auto source = open(0);
    const auto destination = open(1);
    ASSERT_TRUE(source && destination);
    uart_write(*source, kScratch, static_cast<std::uint8_t>(round));
    go(*source, DeviceState::stop_copy);
    const auto state = read_all(*source->migration(), MiB);
    go(*destination, DeviceState::resuming);
    ASSERT_TRUE(destination->migration()->write(state));
    go(*destination, DeviceState::running);
    ASSERT_EQ(uart_read(*destination, kScratch), static_cast<std::uint8_t>(round));
  }
}

TEST_P(KernelDevice, ItsDmaLogIsStartedReportedAndStopped) {
  const auto device = open(0);
  ASSERT_TRUE(device);
  auto* log = device->dma_log();
  ASSERT_NE(log, nullptr);
  const vfio::IovaRange ranges[] = {{Iova{0}, MiB}, {Iova{GiB}, MiB}};
  ASSERT_TRUE(log->start(kPageSize, ranges));
  const auto report = log->report({Iova{GiB}, MiB});
  ASSERT_TRUE(report) << report.error().to_string();
  EXPECT_GE(report->size(), 32u);
  EXPECT_TRUE(log->stop());
  std::vector<vfio::IovaRange> many(257);
  for (std::size_t i = 0; i < many.size(); ++i)
    many[i] = {Iova{i * MiB}, kPageSize};
  const auto refused = log->start(kPageSize, many);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno(), E2BIG);
}

TEST_P(KernelDevice, OneThatIsInUseIsRefusedByName) {
  const auto device = open(0);
  ASSERT_TRUE(device);
  const auto again = open_device({.id = "again", .where = names_[0], .path = GetParam()});
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().to_string(), HasSubstr("`again`"));
  EXPECT_THAT(again.error().to_string(), HasSubstr("in use"));
}

INSTANTIATE_TEST_SUITE_P(Paths, KernelDevice, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });

}  // namespace
}  // namespace handover::vfio_kernel
