// A PCI device that does DMA behind an IOMMU, through vfio-pci: QEMU's "edu".  Runs inside the test VM;
// HANDOVER_EDU is its address.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "handover/base/byte_order.h"
#include "handover/base/cancel.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio_kernel/open_device.h"

namespace handover::vfio_kernel {
namespace {

using testing::HasSubstr;

// Of BAR 0; sources and destinations of DMA, and what starts it.
constexpr std::uint64_t kIdentification = 0x00;
constexpr std::uint64_t kRaise = 0x60;
constexpr std::uint64_t kAcknowledge = 0x64;
constexpr std::uint64_t kSource = 0x80;
constexpr std::uint64_t kDestination = 0x88;
constexpr std::uint64_t kCount = 0x90;
constexpr std::uint64_t kCommand = 0x98;
constexpr std::uint32_t kStart = 1;
constexpr std::uint32_t kToRam = 2;
constexpr std::uint64_t kBuffer = 0x40000;  // of the device's own
constexpr std::uint32_t kBytes = 1024;
constexpr Iova kMapped{0x100000};
constexpr Iova kUnmapped{0x900000};

class Edu : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    const char* address = std::getenv("HANDOVER_EDU");
    ASSERT_NE(address, nullptr);
    auto device = open_device({.id = "edu", .where = address, .path = GetParam()});
    ASSERT_TRUE(device) << device.error().to_string();
    device_ = std::move(*device);
    memory_ = GuestMemory::create(MiB).value();
    const auto& block = *memory_->blocks()[0];
    const auto mapped =
        device_->dma_map({.iova = kMapped, .size = MiB, .fd = block.fd(), .host = block.data()});
    ASSERT_TRUE(mapped) << mapped.error().to_string();
    const std::byte on[2] = {std::byte{6}, std::byte{0}};  // memory and bus master
    ASSERT_TRUE(device_->region_write(vfio::kRegionConfig, 4, on));
  }
  std::uint32_t read32(std::uint64_t reg) {
    std::byte raw[4]{};
    EXPECT_TRUE(device_->region_read(0, reg, raw));
    return load_le<std::uint32_t>(raw);
  }
  void write32(std::uint64_t reg, std::uint32_t value) {
    std::byte raw[4];
    store_le(raw, value);
    EXPECT_TRUE(device_->region_write(0, reg, raw));
  }
  void transfer(std::uint64_t from, std::uint64_t to, std::uint32_t direction) {
    write32(kSource, static_cast<std::uint32_t>(from));
    write32(kDestination, static_cast<std::uint32_t>(to));
    write32(kCount, kBytes);
    write32(kCommand, kStart | direction);
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (read32(kCommand) & kStart) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::span<std::byte> ram(std::uint64_t at) { return memory_->at(Gpa{at}, kBytes); }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<vfio::Device> device_;
};

TEST_P(Edu, DmaGoesBothWaysThroughWhatIsMapped) {
  EXPECT_EQ(read32(kIdentification), 0x010000edu);
  for (std::size_t i = 0; i < kBytes; ++i)
    ram(0x2000)[i] = static_cast<std::byte>(i * 7);
  transfer(kMapped.value + 0x2000, kBuffer, 0);
  transfer(kBuffer, kMapped.value + 0x5000, kToRam);
  EXPECT_TRUE(std::ranges::equal(ram(0x2000), ram(0x5000)));
}

TEST_P(Edu, WhatIsNotMappedIsNotReached) {
  std::ranges::fill(ram(0x2000), std::byte{0x3c});
  transfer(kMapped.value + 0x2000, kBuffer, 0);
  transfer(kBuffer, kUnmapped.value, kToRam);
  const auto whole = memory_->at(Gpa{0}, MiB);
  EXPECT_EQ(std::ranges::count(whole, std::byte{0x3c}), kBytes) << "and no copy of it";
  // What was mapped and is not any more is the same.
  ASSERT_TRUE(device_->dma_unmap({kMapped, MiB}));
  transfer(kBuffer, kMapped.value + 0x7000, kToRam);
  EXPECT_EQ(std::ranges::count(whole, std::byte{0x3c}), kBytes);
}

TEST_P(Edu, ItsInterruptComesByEventfd) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fds[] = {event.get()};
  const auto set = device_->set_irq_eventfds(vfio::kIrqMsi, fds);
  ASSERT_TRUE(set) << set.error().to_string();
  write32(kRaise, 1);
  ASSERT_TRUE(wait_fd(event.get(), POLLIN, {}, std::chrono::steady_clock::now() + std::chrono::minutes(2)));
  std::uint64_t count = 0;
  EXPECT_EQ(::read(event.get(), &count, sizeof count), static_cast<ssize_t>(sizeof count));
  write32(kAcknowledge, 1);
  EXPECT_TRUE(device_->set_irq_eventfds(vfio::kIrqMsi, {}));
}

TEST_P(Edu, ItCannotMigrateAndAllOfMemoryCountsAsWritten) {
  EXPECT_EQ(device_->migration(), nullptr);
  EXPECT_THAT(device_->migration_blocker(), HasSubstr("`vfio-pci` has no migration"));
  EXPECT_EQ(device_->dma_log(), nullptr);
  vfio::PhysicalView view(*memory_);
  std::vector<vfio::TrackerOffer> offers;
  offers.push_back({vfio::TrackerKind::all, vfio::make_all_pages_tracker(*device_), {}});
  const auto dirt = vfio::DmaDirtySource::create("device `edu`", std::move(offers), view, {});
  ASSERT_TRUE(dirt);
  ASSERT_TRUE((*dirt)->start());
  DirtyMemory found(*memory_);
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE((*dirt)->sync(found, DirtySync::round));
    EXPECT_EQ(found.count(), MiB / kPageSize);
    found.of(*memory_->blocks()[0]).clear();
  }
  EXPECT_EQ((*dirt)->choice().kind, vfio::TrackerKind::all);
}

INSTANTIATE_TEST_SUITE_P(Paths, Edu, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });

}  // namespace
}  // namespace handover::vfio_kernel
