#include <fcntl.h>

#include "unit/vfio_user/served_toy.h"

// Inputs that a server must survive: each gets its answer, and the next valid command works.
namespace handover::vfio_user {
namespace {

using namespace protocol;

class HostileClient : public ServedToy {
 protected:
  void SetUp() override { serve(); }
};

struct Case {
  std::string name;
  Command command;
  std::vector<std::byte> payload;
  int error;
  std::vector<int> fds = {};
};

template <class... Parts>
std::vector<std::byte> bytes_of(const Parts&... parts) {
  MessageBuilder builder;
  (builder.add(parts), ...);
  const auto whole = builder.finish({});
  return {whole.begin() + kHeaderSize, whole.end()};
}
std::vector<std::byte> operator+(std::vector<std::byte> head, std::size_t extra) {
  head.resize(head.size() + extra);
  return head;
}
std::vector<std::byte> zeros(std::size_t count) {
  return std::vector<std::byte>(count);
}
Command number(int value) {
  return static_cast<Command>(value);
}

FeatureHead feature(std::uint32_t argsz, std::uint32_t flags) {
  return {argsz, flags};
}
constexpr auto kGet = kFeatureGet, kSet = kFeatureSet, kProbe = kFeatureProbe;
constexpr std::uint64_t kAll = ~std::uint64_t{0};

std::vector<Case> commands_and_infos() {
  std::vector<Case> cases;
  for (int unknown : {0, 1, 11, 12, 14, 19, 255, 0xffff})
    cases.push_back({"command " + std::to_string(unknown), number(unknown), zeros(40), EINVAL});
  for (int known : {2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18})
    for (std::size_t size : {0u, 1u, 3u})
      cases.push_back({"short command " + std::to_string(known), number(known), zeros(size), EINVAL});
  const auto get_info = Command::device_get_info;
  cases.push_back({"info, argsz 15", get_info, bytes_of(protocol::DeviceInfo{15, 0, 0, 0}), EINVAL});
  cases.push_back({"info, argsz 32", get_info, bytes_of(protocol::DeviceInfo{32, 0, 0, 0}), 0});
  const auto region = Command::device_get_region_info;
  cases.push_back({"region 9", region, bytes_of(RegionInfoHead{32, 0, 9, 0, 0, 0}), EINVAL});
  cases.push_back({"region 2^32-1", region, bytes_of(RegionInfoHead{32, 0, 0xffffffff, 0, 0, 0}), EINVAL});
  cases.push_back({"region, argsz 31", region, bytes_of(RegionInfoHead{31, 0, 0, 0, 0, 0}), EINVAL});
  cases.push_back({"region, argsz huge", region, bytes_of(RegionInfoHead{0xffffffff, 0, 2, 0, 0, 0}), 0});
  const auto irq = Command::device_get_irq_info;
  cases.push_back({"irq index 5", irq, bytes_of(protocol::IrqInfo{16, 0, 5, 0}), EINVAL});
  cases.push_back({"irq, argsz 15", irq, bytes_of(protocol::IrqInfo{15, 0, 0, 0}), EINVAL});
  const auto io = Command::device_get_region_io_fds;
  cases.push_back({"io fds", io, bytes_of(RegionIoFdsHead{16, 0, 0, 0}), 0});
  cases.push_back({"io fds, flags", io, bytes_of(RegionIoFdsHead{16, 1, 0, 0}), EINVAL});
  cases.push_back({"io fds, count", io, bytes_of(RegionIoFdsHead{16, 0, 0, 1}), EINVAL});
  cases.push_back({"io fds, unset region", io, bytes_of(RegionIoFdsHead{16, 0, 1, 0}), EINVAL});
  cases.push_back({"io fds, argsz", io, bytes_of(RegionIoFdsHead{15, 0, 0, 0}), EINVAL});
  return cases;
}

std::vector<Case> accesses() {
  const auto read = Command::region_read, write = Command::region_write, multi = Command::region_write_multi;
  const auto at = [](std::uint64_t offset, std::uint32_t region, std::uint32_t count) {
    return bytes_of(RegionAccessHead{offset, region, count});
  };
  std::vector<Case> cases = {
      {"read nothing", read, at(0, 0, 0), 0},
      {"read the last byte", read, at(0xfff, 0, 1), 0},
      {"read beyond the end", read, at(0xfff, 0, 2), EINVAL},
      {"read at the end", read, at(0x1000, 0, 1), EINVAL},
      {"read, offset + count wraps", read, at(kAll, 0, 8), EINVAL},
      {"read 4 GiB", read, at(0, 0, 0xffffffff), EINVAL},
      {"read region that is not there", read, at(0, 1, 1), EINVAL},
      {"read region 0xdeadbeef", read, at(0, 0xdeadbeef, 1), EINVAL},
      {"config 0xff, 4 bytes", read, at(0xff, 7, 4), EINVAL},
      {"write config at an odd place", write, at(5, 7, 1) + 1, 0},
      {"write, count without data", write, at(0, 0, 4), EINVAL},
      {"write, more data than count", write, at(0, 0, 4) + 5, EINVAL},
      {"write nothing", write, at(0, 0, 0), 0},
      {"write read-only region", write, at(0, 6, 4) + 4, EINVAL},
      {"write mapped region by message", write, at(0x1000, 2, 4) + 4, 0},
  };
  for (std::uint64_t count : {std::uint64_t{1}, std::uint64_t{1} << 61, kAll})
    cases.push_back({"multi, count without data", multi, bytes_of(U64{count}), EINVAL});
  cases.push_back({"multi, nothing", multi, bytes_of(U64{0}), 0});
  cases.push_back({"multi, count 9 in an entry", multi, bytes_of(U64{1}, MultiWriteHead{0, 0, 9}) + 8, 0});
  return cases;
}

std::vector<Case> interrupts(int eventfd, int directory) {
  const auto set = Command::device_set_irqs;
  const auto irqs = [](std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count,
                       std::uint32_t argsz = 20) {
    return bytes_of(SetIrqsHead{argsz, flags, index, start, count});
  };
  constexpr auto kNone = kIrqDataNone, kBool = kIrqDataBool, kFd = kIrqDataEventfd;
  constexpr auto kMask = kIrqActionMask, kUnmask = kIrqActionUnmask, kTrigger = kIrqActionTrigger;
  return {
      {"no flags", set, irqs(0, 2, 0, 1), EINVAL},
      {"unknown flag", set, irqs(kNone | kTrigger | 64, 2, 0, 1), EINVAL},
      {"mask and unmask", set, irqs(kNone | kMask | kUnmask, 2, 0, 1), EINVAL},
      {"none and bool", set, irqs(kNone | kBool | kTrigger, 2, 0, 1), EINVAL},
      {"argsz 19", set, irqs(kNone | kTrigger, 2, 0, 1, 19), EINVAL},
      {"index 5", set, irqs(kNone | kTrigger, 5, 0, 1), EINVAL},
      {"start beyond", set, irqs(kNone | kTrigger, 2, 4, 1), EINVAL},
      {"start + count beyond", set, irqs(kNone | kTrigger, 2, 3, 2), EINVAL},
      {"start + count wraps", set, irqs(kNone | kTrigger, 2, 284, 0xffffffff), EINVAL},
      {"count 0 with start", set, irqs(kNone | kTrigger, 2, 1, 0), EINVAL},
      {"count 0 to mask", set, irqs(kNone | kMask, 2, 0, 0), EINVAL},
      {"count 0 with bool", set, irqs(kBool | kTrigger, 2, 0, 0), EINVAL},
      {"ERR masked", set, irqs(kNone | kMask, 3, 0, 1), EINVAL},
      {"REQ, two vectors", set, irqs(kNone | kTrigger, 4, 0, 2), EINVAL},
      {"bool too short", set, irqs(kBool | kTrigger, 2, 0, 2) + 1, EINVAL},
      {"bool too long", set, irqs(kBool | kTrigger, 2, 0, 2) + 3, EINVAL},
      {"bool", set, irqs(kBool | kTrigger, 2, 0, 2) + 2, 0},
      {"trigger without eventfd", set, irqs(kNone | kTrigger, 2, 0, 4), 0},
      {"unmask INTx that was never masked", set, irqs(kNone | kUnmask, 0, 0, 1), 0},
      {"disable an index without vectors", set, irqs(kNone | kTrigger, 1, 0, 0), 0},
      {"trigger an index without vectors", set, irqs(kNone | kTrigger, 1, 0, 1), EINVAL},
      {"descriptors with none", set, irqs(kNone | kTrigger, 2, 0, 1), EINVAL, {eventfd}},
      {"descriptors with bool", set, irqs(kBool | kTrigger, 2, 0, 1) + 1, EINVAL, {eventfd}},
      {"more descriptors than vectors", set, irqs(kFd | kTrigger, 2, 0, 1), EINVAL, {eventfd, eventfd}},
      {"fewer descriptors than vectors", set, irqs(kFd | kTrigger, 2, 0, 2), EINVAL, {eventfd}},
      {"a directory for an eventfd", set, irqs(kFd | kTrigger, 2, 0, 1), EINVAL, {directory}},
      {"same eventfd twice", set, irqs(kFd | kTrigger, 2, 0, 2), 0, {eventfd, eventfd}},
      {"replace an eventfd", set, irqs(kFd | kTrigger, 2, 0, 1), 0, {eventfd}},
      {"remove eventfds from the middle", set, irqs(kFd | kTrigger, 2, 1, 2), 0},
      {"disable", set, irqs(kNone | kTrigger, 2, 0, 0), 0},
  };
}

std::vector<Case> features() {
  const auto call = Command::device_feature;
  const auto state = [](std::uint32_t value) {
    return bytes_of(feature(16, kFeatureDeviceState | kSet), DeviceStateData{value, 0});
  };
  std::vector<Case> cases = {
      {"no method", call, bytes_of(feature(8, kFeatureMigration)), EINVAL},
      {"get and set", call, bytes_of(feature(32, kFeatureDeviceState | kGet | kSet)), EINVAL},
      {"unknown flag", call, bytes_of(feature(32, kFeatureDeviceState | kGet | 0x80000)), EINVAL},
      {"unknown feature", call, bytes_of(feature(16, 99 | kGet)), ENOTTY},
      {"probe of an unknown feature", call, bytes_of(feature(8, 99 | kProbe)), ENOTTY},
      {"probe without method", call, bytes_of(feature(8, kFeatureMigration | kProbe)), 0},
      {"probe of both methods", call, bytes_of(feature(8, kFeatureDeviceState | kProbe | kGet | kSet)), 0},
      {"probe of a method it lacks", call, bytes_of(feature(8, kFeatureMigration | kProbe | kSet)), EINVAL},
      {"probe, argsz 7", call, bytes_of(feature(7, kFeatureMigration | kProbe)), EINVAL},
      {"set what can only be got", call, bytes_of(feature(16, kFeatureMigration | kSet)) + 8, EINVAL},
      {"get, argsz too small for the answer", call, bytes_of(feature(15, kFeatureMigration | kGet)), EINVAL},
      {"set, argsz smaller than itself", call, bytes_of(feature(8, kFeatureDeviceState | kSet)) + 8, EINVAL},
      {"set state, no data", call, bytes_of(feature(8, kFeatureDeviceState | kSet)), EINVAL},
      {"set state, half the data", call, bytes_of(feature(12, kFeatureDeviceState | kSet)) + 4, EINVAL},
      {"pre-copy info while running", call, bytes_of(feature(24, kFeatureMigPrecopyInfo | kGet)), EINVAL},
      {"data size", call, bytes_of(feature(16, kFeatureMigDataSize | kGet)), 0},
      {"start logging, no data", call, bytes_of(feature(8, kFeatureDmaLoggingStart | kSet)), EINVAL},
      {"report before start", call,
       bytes_of(feature(1000, kFeatureDmaLoggingReport | kGet), DmaLoggingReportHead{0, 4096, 4096}), EINVAL},
      {"stop before start", call, bytes_of(feature(8, kFeatureDmaLoggingStop | kSet)), 0},
      {"stop with extra bytes", call, bytes_of(feature(24, kFeatureDmaLoggingStop | kSet)) + 16, 0},
  };
  for (std::uint32_t value : {0u, 8u, 9u, 0xabcdu, 0xffffffffu})
    cases.push_back({"state " + std::to_string(value), call, state(value), EINVAL});
  for (std::uint32_t ranges : {1u, 0x10000000u, 0xffffffffu})
    cases.push_back(
        {"start logging, ranges without data", call,
         bytes_of(feature(100, kFeatureDmaLoggingStart | kSet), DmaLoggingStartHead{4096, ranges, 0}),
         EINVAL});
  for (std::uint64_t page : {std::uint64_t{0}, std::uint64_t{3}, kAll})
    cases.push_back({"start logging, page size", call,
                     bytes_of(feature(24, kFeatureDmaLoggingStart | kSet), DmaLoggingStartHead{page, 0, 0}),
                     EINVAL});
  return cases;
}

std::vector<Case> reports_and_data() {
  const auto call = Command::device_feature;
  const auto report = [](std::uint32_t argsz, std::uint64_t iova, std::uint64_t length, std::uint64_t page) {
    return bytes_of(feature(argsz, kFeatureDmaLoggingReport | kGet),
                    DmaLoggingReportHead{iova, length, page});
  };
  const auto data = [](std::uint32_t argsz, std::uint32_t size) {
    return bytes_of(MigDataHead{argsz, size});
  };
  const auto read = Command::mig_data_read, write = Command::mig_data_write;
  return {
      {"start logging", call,
       bytes_of(feature(24, kFeatureDmaLoggingStart | kSet), DmaLoggingStartHead{1ull << 63, 0, 0}), 0},
      {"start logging again", call,
       bytes_of(feature(24, kFeatureDmaLoggingStart | kSet), DmaLoggingStartHead{4096, 0, 0}), 0},
      {"report of nothing", call, report(1000, 0x10000, 0, 4096), EINVAL},
      {"report, no page size", call, report(1000, 0x10000, 4096, 0), EINVAL},
      {"report, page size 3", call, report(1000, 0x10000, 4096, 3), EINVAL},
      {"report, page size 2^63", call, report(1000, 0x10000, 4096, 1ull << 63), 0},
      {"report of everything by byte", call, report(0xffffffff, 0, kAll, 1), EINVAL},
      {"report of 2^64-1 bytes", call, report(0xffffffff, 1, kAll, 4096), EINVAL},
      {"report that wraps", call, report(0xffffffff, kAll - 10, 4096, 4096), EINVAL},
      {"report, argsz 39", call, report(39, 0x10000, 4096, 4096), EINVAL},
      {"report of what is not mapped", call, report(1000, 1ull << 50, 4096, 4096), ENOENT},
      {"report from the middle of a mapping", call, report(1000, 0x11000, 0x1000, 4096), 0},
      {"report across mappings", call, report(1000, 0x8000, 0x20000, 4096), 0},
      {"stop logging", call, bytes_of(feature(8, kFeatureDmaLoggingStop | kSet)), 0},
      {"report after stop", call, report(1000, 0x10000, 4096, 4096), EINVAL},
      {"read state while running", read, data(1032, 1024), EINVAL},
      {"write state while running", write, data(12, 4) + 4, EINVAL},
      {"to pre-copy", call, bytes_of(feature(16, kFeatureDeviceState | kSet), DeviceStateData{6, 0}), 0},
      {"read nothing", read, data(8, 0), 0},
      {"read, argsz too small", read, data(1031, 1024), EINVAL},
      {"read, argsz + size overflows", read, data(0xffffffff, 0xffffffff), EINVAL},
      {"read more than a message takes", read, data(0xffffffff, (1 << 20) + 1), EINVAL},
      {"write state in pre-copy", write, data(12, 4) + 4, EINVAL},
      {"pre-copy info", call, bytes_of(feature(32, kFeatureMigPrecopyInfo | kGet)), 0},
      {"to stop-copy", call, bytes_of(feature(16, kFeatureDeviceState | kSet), DeviceStateData{3, 0}), 0},
      {"stop-copy to pre-copy", call,
       bytes_of(feature(16, kFeatureDeviceState | kSet), DeviceStateData{6, 0}), EINVAL},
      {"to resuming", call, bytes_of(feature(16, kFeatureDeviceState | kSet), DeviceStateData{4, 0}), 0},
      {"write, more than the data", write, data(108, 100) + 99, EINVAL},
      {"write, argsz too small", write, data(11, 4) + 4, EINVAL},
      {"write, bytes after the data", write, data(8, 0) + 10, 0},
      {"write garbage", write, data(24, 16) + 16, 0},
      {"read state while resuming", read, data(1032, 1024), EINVAL},
      {"reset", Command::device_reset, {}, 0},
      {"reset with payload", Command::device_reset, zeros(100), 0},
  };
}

TEST_F(HostileClient, EveryBadCommandGetsItsErrorAndTheNextOneWorks) {
  const auto eventfd = make_eventfd();
  const UniqueFd directory(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto wire = client();
  ASSERT_EQ(wire.map(0x10000, 0x10000), 0);
  const auto before = open_fds();
  int count = 0;
  for (const auto& cases : {commands_and_infos(), accesses(), interrupts(eventfd.get(), directory.get()),
                            features(), reports_and_data()})
    for (const auto& each : cases) {
      EXPECT_EQ(wire.call_errno(each.command, MessageBuilder().data(each.payload), each.fds), each.error)
          << each.name;
      EXPECT_TRUE(wire.alive()) << each.name;
      ++count;
    }
  EXPECT_TRUE(eventually([&] { return open_fds() == before; })) << "descriptors leaked";
  EXPECT_GT(count, 150);
}

TEST_F(HostileClient, DescriptorsOnCommandsThatTakeNoneAreClosed) {
  auto wire = client();
  const auto eventfd = make_eventfd();
  const auto before = open_fds();
  const std::vector<int> fds(20, eventfd.get());
  for (int command : {3, 4, 5, 6, 7, 9, 10, 13, 15, 16, 17, 18, 99})
    (void)wire.call_errno(number(command), MessageBuilder().data(zeros(32)), fds);
  EXPECT_TRUE(wire.alive());
  EXPECT_TRUE(eventually([&] { return open_fds() == before; }));
}

TEST_F(HostileClient, NoCommandWithoutReplyIsEverAnswered) {
  auto wire = client();
  for (int command = 0; command < 20; ++command)
    for (std::size_t size : {0u, 16u, 40u})
      wire.send(number(command), MessageBuilder().data(zeros(size)), {}, kFlagNoReply);
  EXPECT_TRUE(wire.alive()) << "the next reply is that of the next command";
}

TEST_F(HostileClient, StrangeTypesAndFlagsDoNotBreakTheStream) {
  auto wire = client();
  for (std::uint32_t type = 2; type < 16; ++type) {
    wire.send(Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{}), {}, type);
    const auto reply = wire.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.error, static_cast<std::uint32_t>(EINVAL)) << type;
  }
  wire.send(Command::dma_read, {}, {}, kFlagReply);  // unsolicited: dropped
  wire.send(Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{}), {}, kFlagError | 0xff00);
  EXPECT_FALSE(wire.receive()->header.failed());
  EXPECT_TRUE(wire.alive());
}

}  // namespace
}  // namespace handover::vfio_user
