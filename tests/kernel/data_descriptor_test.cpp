// How a device's data descriptor is read, seen from the kernel: every read() that is made of it.  Runs inside
// the test VM with two mtty devices in HANDOVER_MTTY; HANDOVER_PROGRAM is `handover`.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "handover/base/units.h"
#include "handover/vfio_kernel/open_device.h"
#include "traced_reads.h"
#include "vm_devices.h"

namespace handover::vfio_kernel {
namespace {

constexpr std::int64_t kState = 60;  // bytes of an mtty's state: Linux 6.12, samples/vfio-mdev/mtty.c
constexpr const char* kData = "mtty_mig";

TracedRun trace_handover(std::vector<std::string> arguments) {
  const char* program = std::getenv("HANDOVER_PROGRAM");
  EXPECT_NE(program, nullptr);
  arguments.insert(arguments.begin(), program ? program : "");
  return trace_reads(kData, [&] {
    std::vector<char*> argv;
    for (auto& each : arguments)
      argv.push_back(each.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    return 127;
  });
}

// All of the state comes, in reads of 1 MiB and more, then one read says that this was all, and none comes
// after.
void expect_read_once_and_well(const TracedRun& run) {
  EXPECT_EQ(run.exit_code, 0);
  std::int64_t bytes = 0;
  int after = 0;
  for (const auto& read : run.reads) {
    EXPECT_GE(read.asked, MiB);
    EXPECT_GE(read.got, 0) << "errno " << -read.got;
    if (bytes == kState) {
      ++after;
      EXPECT_EQ(read.got, 0);
    }
    bytes += read.got;
  }
  EXPECT_EQ(bytes, kState);
  EXPECT_EQ(after, 1) << "reads when everything had come";
}

class DataDescriptor : public testing::Test {
 protected:
  void SetUp() override {
    names_ = vm_devices("HANDOVER_MTTY");
    ASSERT_EQ(names_.size(), 2u);
    one_ = "vfio:" + names_[0];
    other_ = "vfio:" + names_[1];
  }
  std::vector<std::string> names_;
  std::string one_, other_;
};

TEST_F(DataDescriptor, IsReadInLargePiecesAndNotAfterTheEndBySave) {
  expect_read_once_and_well(trace_handover({"device", "save", one_, "/tmp/data.state"}));
}

TEST_F(DataDescriptor, TheSameWithoutPreCopy) {
  const auto run = trace_handover({"device", "save", one_, "/tmp/data.state", "--stop-only"});
  expect_read_once_and_well(run);
  ASSERT_FALSE(run.reads.empty());
  EXPECT_EQ(run.reads.back().got, 0);
}

TEST_F(DataDescriptor, TheSameByMigrate) {
  expect_read_once_and_well(trace_handover({"device", "migrate", one_, other_}));
  EXPECT_EQ(trace_handover({"device", "start", one_}).exit_code, 0);
}

TEST_F(DataDescriptor, TheSameByADevicesThread) {
  expect_read_once_and_well(trace_handover({"device", "migrate", one_, other_, "--multifd-channels", "2"}));
  EXPECT_EQ(trace_handover({"device", "start", one_}).exit_code, 0);
}

TEST_F(DataDescriptor, ItsEndIsRememberedWhoeverAsksAgain) {
  const auto run = trace_reads(kData, [&] {
    auto device = open_device({.id = "mtty", .where = names_[0]});
    if (!device || !(*device)->migration()->set_state(vfio::DeviceState::stop_copy)) return 1;
    std::vector<std::byte> buffer(MiB);
    for (int ends = 0; ends < 3;) {
      const auto read = (*device)->migration()->read(buffer);
      if (!read) return 2;
      if (read->kind == vfio::StateRead::Kind::end) ++ends;
    }
    return (*device)->migration()->set_state(vfio::DeviceState::running) ? 0 : 3;
  });
  expect_read_once_and_well(run);
}

}  // namespace
}  // namespace handover::vfio_kernel
