// What goes wrong with devices behind a real kernel's VFIO while a program has them open.  Runs inside the
// test VM, started by failures_test, which says in the environment which devices there are.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <vector>

#include "handover/memory/guest_memory.h"
#include "handover/vfio_kernel/open_device.h"

namespace handover::vfio_kernel {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  EXPECT_NE(value, nullptr) << name;
  return value ? value : "";
}

class Paths : public testing::TestWithParam<Path> {
 protected:
  Result<std::unique_ptr<vfio::Device>> open(const std::string& where) {
    return open_device({.id = where, .where = where, .path = GetParam()});
  }
};

class LockedMemory : public Paths {};
class InUse : public Paths {};
class TakenAway : public Paths {};
class SwitchedOff : public Paths {};

void write_file(const std::string& name, const std::string& text) {
  std::ofstream(name) << text;
}

TEST_P(LockedMemory, ItsLimitAndHowToRaiseItAreSaid) {
  auto device = open(variable("HANDOVER_EDU"));
  ASSERT_TRUE(device) << device.error().to_string();
  const auto memory = GuestMemory::create(MiB).value();
  const auto& block = *memory->blocks()[0];
  const auto small = (*device)->dma_map({.iova = Iova{0}, .size = 32 * KiB, .host = block.data()});
  EXPECT_TRUE(small) << small.error().to_string();
  const auto large = (*device)->dma_map({.iova = Iova{MiB}, .size = MiB, .host = block.data()});
  ASSERT_FALSE(large) << "the limit does not apply";
  EXPECT_EQ(large.error().sys_errno(), ENOMEM);
  EXPECT_THAT(large.error().to_string(),
              AllOf(HasSubstr("the limit is 64 KiB"), HasSubstr("ulimit -l"), HasSubstr("limits.conf")));
  // What was refused can be had in the limit.
  EXPECT_TRUE((*device)->dma_unmap({Iova{0}, 32 * KiB}));
  EXPECT_TRUE((*device)->dma_map({.iova = Iova{MiB}, .size = 32 * KiB, .host = block.data()}));
}

// How many numbers of an iommufd's objects are taken: new ones get the lowest that are free.
std::uint32_t taken(int iommufd) {
  constexpr unsigned long kDestroy = 0x3b80;
  constexpr unsigned long kIoasAlloc = 0x3b81;
  constexpr std::uint32_t kProbes = 32;  // far more than there are gaps
  std::vector<std::uint32_t> probes;
  for (std::uint32_t i = 0; i < kProbes; ++i) {
    std::uint32_t space[3] = {sizeof space, 0, 0};
    EXPECT_EQ(::ioctl(iommufd, kIoasAlloc, space), 0);
    probes.push_back(space[2]);
  }
  for (const auto id : probes) {
    std::uint32_t destroy[2] = {sizeof destroy, id};
    EXPECT_EQ(::ioctl(iommufd, kDestroy, destroy), 0);
  }
  return std::ranges::max(probes) - kProbes;
}

// With the limit of 64 KiB for all of them together.
TEST(LockedMemoryOfAnInheritedIommufd, NothingStaysInItWhenTheDeviceIsClosed) {
  const auto vfio_dev = std::filesystem::path("/sys/bus/pci/devices") / variable("HANDOVER_EDU") / "vfio-dev";
  const auto node =
      "/dev/vfio/devices/" + std::filesystem::directory_iterator(vfio_dev)->path().filename().string();
  const UniqueFd iommu(::open("/dev/iommu", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(iommu);
  const auto before = taken(iommu.get());
  const auto memory = GuestMemory::create(MiB).value();
  for (int round = 0; round < 3; ++round) {
    const int fd = ::open(node.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    auto device = open_device({.id = "edu", .where = fmt::format("fd={},iommufd={}", fd, iommu.get())});
    ASSERT_TRUE(device) << device.error().to_string();
    EXPECT_EQ(::fcntl(fd, F_GETFD), -1) << "it was taken over";
    EXPECT_NE(::fcntl(iommu.get(), F_GETFD), -1) << "it is still ours";
    const auto mapped =
        (*device)->dma_map({.iova = Iova{0}, .size = 48 * KiB, .host = memory->blocks()[0]->data()});
    ASSERT_TRUE(mapped) << "round " << round << ": " << mapped.error().to_string();
    EXPECT_GT(taken(iommu.get()), before);
  }
  EXPECT_EQ(taken(iommu.get()), before);
}

TEST_P(InUse, AnotherDeviceOfTheGroupInThisProcessIsSaid) {
  const auto one = open(variable("HANDOVER_ONE"));
  ASSERT_TRUE(one) << one.error().to_string();
  const auto other = open(variable("HANDOVER_OTHER"));
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().to_string(),
              AllOf(HasSubstr("another device of its IOMMU group"), HasSubstr("open in this process"),
                    HasSubstr("only one device of a group")));
}

TEST_P(InUse, ADeviceThatThisProcessHasIsSaid) {
  const auto first = open(variable("HANDOVER_EDU"));
  ASSERT_TRUE(first) << first.error().to_string();
  const auto again = open(variable("HANDOVER_EDU"));
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().to_string(),
              testing::ContainsRegex("in use by this process|open in this process"));
}

TEST_P(InUse, AnotherProcessIsNamed) {
  const auto name = variable("HANDOVER_EDU");
  int ready[2];
  int over[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(over), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto device = open(name);
    char byte = device ? 'y' : 'n';
    ::close(over[1]);
    if (::write(ready[1], &byte, 1) == 1) (void)!::read(over[0], &byte, 1);  // until the other end is closed
    ::_exit(0);
  }
  ::close(over[0]);
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  for (const auto path : {Path::cdev, Path::group}) {
    const auto refused = open_device({.id = name, .where = name, .path = path});
    EXPECT_FALSE(refused);
    if (!refused) {
      EXPECT_THAT(refused.error().to_string(), HasSubstr(fmt::format("in use by process {} (", child)));
    }
  }
  ::close(over[1]);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(open(name)) << "and then it can be had";
  ::close(ready[0]);
  ::close(ready[1]);
}

// VFIO's REQ interrupt.
TEST_P(TakenAway, TheHostsWishIsToldAndGrantedWhenTheDeviceIsClosed) {
  const auto name = variable("HANDOVER_EDU");
  const auto folder = "/sys/bus/pci/devices/" + name;
  auto opened = open(name);
  ASSERT_TRUE(opened) << opened.error().to_string();
  auto device = std::move(*opened);
  EXPECT_FALSE(device->lost());
  const int none[] = {-1};
  EXPECT_FALSE(device->set_irq_eventfds(vfio::kIrqReq, none)) << "nobody switches it off by mistake";
  const auto memory = GuestMemory::create(MiB).value();
  const auto& block = *memory->blocks()[0];
  ASSERT_TRUE(device->dma_map({.iova = Iova{0}, .size = MiB, .host = block.data()}));

  std::promise<std::string> told;
  std::atomic<int> times = 0;
  for (int i = 0; i < 2; ++i)
    device->on_lost([&](const std::string& reason) {
      if (++times == 2) told.set_value(reason);
    });
  const pid_t host = ::fork();
  if (host == 0) {  // another program, which has nothing of ours open; it returns when the device is closed
    ::execl("/bin/sh", "sh", "-c", "echo $HANDOVER_EDU >/sys/bus/pci/drivers/vfio-pci/unbind", nullptr);
    ::_exit(127);
  }
  auto future = told.get_future();
  ASSERT_EQ(future.wait_for(std::chrono::minutes(5)), std::future_status::ready);
  EXPECT_THAT(future.get(), AllOf(HasSubstr("`" + name + "`"), HasSubstr("the host asks for it back")));
  EXPECT_TRUE(device->lost());
  int late = 0;
  device->on_lost([&](const std::string&) { ++late; });
  EXPECT_EQ(late, 1) << "who comes later is told at once";

  std::byte word[4]{};
  for (const auto& refused :
       {device->region_read(vfio::kRegionConfig, 0, word), device->region_write(0, 0, word), device->reset(),
        device->dma_map({.iova = Iova{MiB}, .size = MiB, .host = block.data()}),
        device->dma_unmap({Iova{0}, MiB}), device->set_irq_eventfds(vfio::kIrqMsi, {}),
        device->unmask_irq(vfio::kIrqIntx)}) {
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::closed);
  }
  EXPECT_EQ(::waitpid(host, nullptr, WNOHANG), 0) << "the host waits";
  device.reset();
  EXPECT_EQ(::waitpid(host, nullptr, 0), host);
  EXPECT_EQ(times, 2) << "each handler once";
  EXPECT_FALSE(std::filesystem::exists(folder + "/driver"));
  write_file("/sys/bus/pci/drivers_probe", name);
  EXPECT_TRUE(open(name)) << "and when it is bound anew it can be had again";
}

TEST_P(SwitchedOff, TheReasonWhyRegistersDoNotAnswerIsSaid) {
  const auto device = open(variable("HANDOVER_EDU"));
  ASSERT_TRUE(device) << device.error().to_string();
  std::byte word[4]{};
  const std::byte off[2]{};
  ASSERT_TRUE((*device)->region_write(vfio::kRegionConfig, 4, off));
  for (const auto& refused : {(*device)->region_read(0, 0, word), (*device)->region_write(0, 4, word)}) {
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::device);
    EXPECT_EQ(refused.error().sys_errno(), EIO);
    EXPECT_THAT(refused.error().to_string(), HasSubstr("switched off in its command register"));
  }
  const std::byte on[2] = {std::byte{2}, std::byte{0}};
  ASSERT_TRUE((*device)->region_write(vfio::kRegionConfig, 4, on));
  EXPECT_TRUE((*device)->region_read(0, 0, word));
  EXPECT_FALSE((*device)->lost());
}

INSTANTIATE_TEST_SUITE_P(Devices, TakenAway, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });
INSTANTIATE_TEST_SUITE_P(Devices, SwitchedOff, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });
INSTANTIATE_TEST_SUITE_P(Devices, LockedMemory, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });
INSTANTIATE_TEST_SUITE_P(Devices, InUse, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });

}  // namespace
}  // namespace handover::vfio_kernel
