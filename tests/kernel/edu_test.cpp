// A PCI device that does DMA behind an IOMMU, through vfio-pci: QEMU's "edu".  Runs inside the test VM;
// HANDOVER_EDU is its address.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "edu_registers.h"
#include "handover/base/cancel.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio_kernel/open_device.h"
#include "vm_devices.h"

namespace handover::vfio_kernel {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr Iova kMapped{0x100000};
constexpr Iova kUnmapped{0x900000};

class Edu : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    const auto addresses = vm_devices("HANDOVER_EDU");
    ASSERT_FALSE(addresses.empty());
    auto device = open_device({.id = "edu", .where = addresses[0], .path = GetParam()});
    ASSERT_TRUE(device) << device.error().to_string();
    device_ = std::move(*device);
    memory_ = GuestMemory::create(MiB).value();
    const auto& block = *memory_->blocks()[0];
    const auto mapped =
        device_->dma_map({.iova = kMapped, .size = MiB, .fd = block.fd(), .host = block.data()});
    ASSERT_TRUE(mapped) << mapped.error().to_string();
    edu_.emplace(*device_);
  }
  std::span<std::byte> ram(std::uint64_t at) { return memory_->at(Gpa{at}, EduRegisters::kBytes); }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<vfio::Device> device_;
  std::optional<EduRegisters> edu_;
};

TEST_P(Edu, DmaGoesBothWaysThroughWhatIsMapped) {
  EXPECT_EQ(edu_->read32(EduRegisters::kIdentification), 0x010000edu);
  for (std::size_t i = 0; i < EduRegisters::kBytes; ++i)
    ram(0x2000)[i] = static_cast<std::byte>(i * 7);
  edu_->transfer(kMapped.value + 0x2000, EduRegisters::kBuffer, 0);
  edu_->transfer(EduRegisters::kBuffer, kMapped.value + 0x5000, EduRegisters::kToRam);
  EXPECT_TRUE(std::ranges::equal(ram(0x2000), ram(0x5000)));
}

TEST_P(Edu, WhatIsNotMappedIsNotReached) {
  std::ranges::fill(ram(0x2000), std::byte{0x3c});
  edu_->transfer(kMapped.value + 0x2000, EduRegisters::kBuffer, 0);
  edu_->transfer(EduRegisters::kBuffer, kUnmapped.value, EduRegisters::kToRam);
  const auto whole = memory_->at(Gpa{0}, MiB);
  EXPECT_EQ(std::ranges::count(whole, std::byte{0x3c}), EduRegisters::kBytes) << "and no copy of it";
  // What was mapped and is not any more is the same.
  ASSERT_TRUE(device_->dma_unmap({kMapped, MiB}));
  edu_->transfer(EduRegisters::kBuffer, kMapped.value + 0x7000, EduRegisters::kToRam);
  EXPECT_EQ(std::ranges::count(whole, std::byte{0x3c}), EduRegisters::kBytes);
}

TEST_P(Edu, ItsInterruptComesByEventfd) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fds[] = {event.get()};
  const auto set = device_->set_irq_eventfds(vfio::kIrqMsi, fds);
  ASSERT_TRUE(set) << set.error().to_string();
  edu_->write32(EduRegisters::kRaise, 1);
  ASSERT_TRUE(wait_fd(event.get(), POLLIN, {}, std::chrono::steady_clock::now() + std::chrono::minutes(2)));
  std::uint64_t count = 0;
  EXPECT_EQ(::read(event.get(), &count, sizeof count), static_cast<ssize_t>(sizeof count));
  edu_->write32(EduRegisters::kAcknowledge, 1);
  EXPECT_TRUE(device_->set_irq_eventfds(vfio::kIrqMsi, {}));
}

TEST_P(Edu, ItCannotMigrateAndAllOfMemoryCountsAsWritten) {
  EXPECT_EQ(device_->migration(), nullptr);
  EXPECT_THAT(device_->migration_blocker(), HasSubstr("`vfio-pci` has no migration"));
  EXPECT_EQ(device_->dma_log(), nullptr);
  vfio::PhysicalView view(*memory_);
  const auto dirt = vfio::DmaDirtySource::create("device `edu`", vfio::offers_of(*device_), view, {});
  ASSERT_TRUE(dirt);
  ASSERT_TRUE((*dirt)->start());
  DirtyMemory found(*memory_);
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE((*dirt)->sync(found, DirtySync::round));
    EXPECT_EQ(found.count(), MiB / kPageSize);
    found.of(*memory_->blocks()[0]).clear();
  }
  EXPECT_EQ((*dirt)->choice().kind, vfio::TrackerKind::all);
  EXPECT_THAT(
      (*dirt)->choice().reason,
      GetParam() == Path::cdev
          ? StartsWith(
                "device `edu` has no DMA log; the host's IOMMU has no dirty bits; no type1 container is "
                "in use; all pages")
          : StartsWith("device `edu` has no DMA log; iommufd is not in use; a type1 container knows only of "
                       "pages that a driver pins one by one, and behind the host's IOMMU all that is mapped "
                       "is pinned: it would report every page, always; all pages"));
  for (const auto kind : {vfio::TrackerKind::iommufd, vfio::TrackerKind::type1})
    EXPECT_FALSE(
        vfio::DmaDirtySource::create("device `edu`", vfio::offers_of(*device_), view, {.tracker = kind}));
}

// The registers of a device, mapped into this process, as a target for the DMA of another.
TEST_P(Edu, ThatItCannotReachAPeerIsNoFailureAndAnythingElseIs) {
  ASSERT_NE(device_->region(0).flags & vfio::kRegionMmap, 0u);
  auto registers = device_->map_area(0, {0, device_->region(0).size});
  ASSERT_TRUE(registers) << registers.error().to_string();
  vfio::DmaMapping peer{
      .iova = kUnmapped, .size = registers->size(), .host = registers->data(), .peer = true};
  EXPECT_TRUE(device_->dma_map(peer));
  EXPECT_TRUE(device_->dma_unmap({peer.iova, peer.size}));
  peer.peer = false;
  // A type1 container takes it.
  EXPECT_EQ(device_->dma_map(peer).has_value(), GetParam() == Path::group);
}

INSTANTIATE_TEST_SUITE_P(Paths, Edu, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });

}  // namespace
}  // namespace handover::vfio_kernel
