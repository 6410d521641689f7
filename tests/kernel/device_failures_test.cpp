// What goes wrong with devices behind a real kernel's VFIO while a program has them open.  Runs inside the
// test VM, started by failures_test, which says in the environment which devices there are.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

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

INSTANTIATE_TEST_SUITE_P(Devices, LockedMemory, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });
INSTANTIATE_TEST_SUITE_P(Devices, InUse, testing::Values(Path::cdev, Path::group),
                         [](const auto& about) { return about.param == Path::cdev ? "cdev" : "group"; });

}  // namespace
}  // namespace handover::vfio_kernel
