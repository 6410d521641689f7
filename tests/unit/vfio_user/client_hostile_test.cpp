#include <atomic>

#include "unit/vfio_user/scripted_server.h"

// A server that is wrong in one way at a time: the client says so and survives.
namespace handover::vfio_user {
namespace {

using namespace protocol;
using Answer = ScriptedServer::Answer;

class HostileServer : public testing::Test {
 protected:
  HostileServer()
      : memory_(std::move(*GuestMemory::create(16 * MiB))),
        server_(testing::UnitTest::GetInstance()->current_test_info()->name()) {}

  std::string connect_error() {
    const auto before = open_fds();
    auto device = server_.connect(*memory_);
    EXPECT_FALSE(device);
    EXPECT_TRUE(eventually([&] { return open_fds() <= before + 1; }))
        << "only the server's end may still be open";
    return device ? "connected" : device.error().to_string();
  }
  static Answer version(std::uint16_t major, std::uint16_t minor, const std::string& json) {
    Answer answer;
    Version version;
    version.major = major;
    version.minor = minor;
    version.text = json;
    answer.payload.add(version);
    return answer;
  }

  std::unique_ptr<GuestMemory> memory_;
  ScriptedServer server_;
};

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(HostileServer, VersionsThatWeDoNotSpeakAreRefused) {
  struct {
    std::uint16_t major, minor;
    std::string json;
  } const cases[] = {{1, 0, "{}"},
                     {0, 3, "{}"},
                     {0, 2, "["},
                     {0, 2, R"({"capabilities":{"max_data_xfer_size":0}})"},
                     {0, 2, R"({"capabilities":{"twin_socket":{"supported":true}}})"},
                     {0, 2, R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}})"}};
  for (const auto& each : cases) {
    server_.on(Command::version,
               [&](ScriptedServer&, const Message&) { return version(each.major, each.minor, each.json); });
    EXPECT_SAYS(connect_error(), "fake0");
  }
  // A descriptor that is there, at another index, and one that is no socket.
  for (const int index : {1, 0}) {
    server_.on(Command::version, [&](ScriptedServer&, const Message&) {
      auto answer = version(
          0, 2,
          R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":)" + std::to_string(index) + "}}}");
      answer.fds.push_back(make_eventfd());
      return answer;
    });
    EXPECT_SAYS(connect_error(), "twin");
  }
}

TEST_F(HostileServer, ClaimsBeyondReasonAreRefused) {
  server_.on(Command::device_get_info, [](ScriptedServer&, const Message&) {
    Answer answer;
    answer.payload.add(protocol::DeviceInfo{16, 3, 0xffffffff, 5});
    return answer;
  });
  EXPECT_SAYS(connect_error(), "4294967295 regions");
  server_.on(Command::device_get_info, &ScriptedServer::usual);
  server_.on(Command::device_get_irq_info, [](ScriptedServer&, const Message&) {
    Answer answer;
    answer.payload.add(protocol::IrqInfo{16, 1, 0, 0x7fffffff});
    return answer;
  });
  EXPECT_SAYS(connect_error(), "vectors");
}

TEST_F(HostileServer, RegionInfoThatNeverEndsOrLiesIsRefused) {
  const auto region = [&](auto change) {
    server_.on(Command::device_get_region_info, [=](ScriptedServer&, const Message& message) {
      auto head = *decode<RegionInfoHead>(message.payload);
      Answer answer;
      RegionInfoReply info;
      info.head = head;
      info.head.size = 0x4000;
      info.head.flags = 7;
      change(info, answer, head);
      return answer;
    });
  };
  region([](RegionInfoReply& info, Answer& answer, RegionInfoHead asked) {
    info.head.argsz = asked.argsz + 16;
    answer.payload.add(info.head);
  });
  EXPECT_SAYS(connect_error(), "region 0");
  region([](RegionInfoReply& info, Answer& answer, RegionInfoHead) {
    info.head.argsz = 0xffffffff;
    answer.payload.add(info.head);
  });
  EXPECT_SAYS(connect_error(), "4294967295 bytes");
  for (const auto& areas : std::vector<std::vector<vfio::RegionArea>>{
           {{0x3000, 0x2000}}, {{~std::uint64_t{0}, 2}}, {{0, 0x2000}, {0x1000, 0x1000}}, {{0, 0}}}) {
    region([=](RegionInfoReply& info, Answer& answer, RegionInfoHead asked) {
      info.sparse = areas;
      if (asked.argsz < info.encoded_size()) {
        info.head.argsz = static_cast<std::uint32_t>(info.encoded_size());
        answer.payload.add(info.head);
        return;
      }
      answer.payload.add(info);
      answer.fds.push_back(make_memfd(0x4000));
    });
    EXPECT_SAYS(connect_error(), "area");
  }
}

TEST_F(HostileServer, FileThatIsTooShortOrNoneAtAllCannotBeMapped) {
  std::atomic<bool> with_file{true};
  server_.on(Command::device_get_region_info, [&](ScriptedServer&, const Message& message) {
    Answer answer;
    auto head = *decode<RegionInfoHead>(message.payload);
    head.argsz = 32;
    head.flags = 7;
    head.size = 0x4000;
    answer.payload.add(head);
    if (with_file) answer.fds.push_back(make_memfd(0x2000));
    return answer;
  });
  {
    auto device = server_.connect(*memory_);
    ASSERT_TRUE(device) << device.error().to_string();
    EXPECT_TRUE((*device)->map_area(0, {0, 0x2000}));
    EXPECT_FALSE((*device)->map_area(0, {0, 0x4000}));
    EXPECT_FALSE((*device)->map_area(0, {0x3000, 0x1000}));
  }
  with_file = false;
  auto device = server_.connect(*memory_);
  ASSERT_TRUE(device);
  EXPECT_EQ((*device)->region(0).flags & vfio::kRegionMmap, 0u);
}

TEST_F(HostileServer, RepliesThatNobodyAskedForLoseTheDevice) {
  for (const int kind : {0, 1, 2, 3}) {
    server_.on(Command::region_read, [=](ScriptedServer& server, const Message& message) {
      Answer answer;
      auto header = reply_header(message.header);
      if (kind == 0) ++header.id;
      if (kind == 1) header.command = 10;
      if (kind == 2) header.flags = 7;  // a type that does not exist
      MessageBuilder payload;
      payload.add(RegionAccessHead{0, 0, 4}).data(std::vector<std::byte>(4));
      auto bytes = payload.finish(header);
      if (kind == 3) store_int<std::uint32_t, std::endian::native>(bytes.data() + 4, 0x7fffffff);
      server.send(std::move(bytes));
      answer.silent = true;
      return answer;
    });
    auto device = server_.connect(*memory_);
    ASSERT_TRUE(device);
    std::atomic<int> told{0};
    (*device)->on_lost([&](std::string) { ++told; });
    std::byte bytes[4];
    EXPECT_FALSE((*device)->region_read(0, 0, bytes)) << kind;
    EXPECT_TRUE((*device)->lost());
    EXPECT_FALSE((*device)->reset());
    device->reset();
    EXPECT_EQ(told, 1);
  }
}

TEST_F(HostileServer, RepliesWithAnotherSizeFailTheCall) {
  server_.on(Command::region_read, [](ScriptedServer&, const Message& message) {
    Answer answer;
    answer.payload.add(*decode<RegionAccessHead>(message.payload)).data(std::vector<std::byte>(3));
    return answer;
  });
  auto device = server_.connect(*memory_);
  ASSERT_TRUE(device);
  std::byte bytes[4];
  EXPECT_FALSE((*device)->region_read(0, 0, bytes));
  EXPECT_FALSE((*device)->lost());
}

TEST_F(HostileServer, ErrorsWithPayloadOrWithoutErrnoAreErrors) {
  int error = 0;
  server_.on(Command::device_reset, [&](ScriptedServer& server, const Message& message) {
    auto header = reply_header(message.header);
    header.flags |= kFlagError;
    header.error = static_cast<std::uint32_t>(error);
    server.send(MessageBuilder().data(std::vector<std::byte>(100)).finish(header));
    Answer answer;
    answer.silent = true;
    return answer;
  });
  auto device = server_.connect(*memory_);
  ASSERT_TRUE(device);
  for (const auto& [sent, seen] : {std::pair{0, EIO}, {EBUSY, EBUSY}, {0xbeef, EIO}}) {
    error = sent;
    const auto reset = (*device)->reset();
    ASSERT_FALSE(reset);
    EXPECT_EQ(reset.error().sys_errno(), seen);
  }
  EXPECT_FALSE((*device)->lost());
}

TEST_F(HostileServer, SilenceLosesTheDeviceAfterItsTime) {
  server_.on(Command::device_reset, [](ScriptedServer&, const Message&) {
    Answer answer;
    answer.silent = true;
    return answer;
  });
  // Long enough for the handshake on the slowest machine.
  auto device = server_.connect(*memory_, std::chrono::seconds(5));
  ASSERT_TRUE(device) << device.error().to_string();
  const auto reset = (*device)->reset();
  ASSERT_FALSE(reset);
  EXPECT_EQ(reset.error().code(), Errc::timeout);
  EXPECT_SAYS(reset.error().to_string(), "fake0");
  EXPECT_TRUE((*device)->lost());
}

// The caller's memory is the caller's again when a call has failed, whatever still comes.
TEST_F(HostileServer, AReplyThatStopsInTheMiddleIsNotGoneOnWithInTheCallersMemory) {
  // The server outlives the test's own variables.
  const auto given_up = std::make_shared<std::atomic<bool>>(false);
  server_.on(Command::region_read, [given_up](ScriptedServer& server, const Message& message) {
    const auto head = *decode<RegionAccessHead>(message.payload);
    auto bytes = MessageBuilder()
                     .add(head)
                     .data(std::vector(head.count, std::byte{0xee}))
                     .finish(reply_header(message.header));
    const auto half = bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2);
    server.send({bytes.begin(), half});
    EXPECT_TRUE(eventually([&] { return given_up->load(); }));
    server.send({half, bytes.end()});
    Answer answer;
    answer.silent = true;
    return answer;
  });
  auto device = server_.connect(*memory_, std::chrono::seconds(5));
  ASSERT_TRUE(device) << device.error().to_string();
  std::vector<std::byte> buffer(0x1000);
  const auto read = (*device)->region_read(0, 0, buffer);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Errc::timeout);
  EXPECT_TRUE((*device)->lost());
  std::ranges::fill(buffer, std::byte{0x11});
  *given_up = true;
  device->reset();
  EXPECT_EQ(buffer, std::vector(0x1000, std::byte{0x11}));
}

TEST_F(HostileServer, DmaIsServedOnlyWhereItWasMappedForIt) {
  constexpr auto kTop = ~std::uint64_t{0};
  struct Case {
    Command command;
    std::uint64_t address, count;
    std::size_t data;
    int error;
  };
  static const Case cases[] = {
      {Command::dma_write, 0x1000, 16, 16, 0},
      {Command::dma_read, 0x1000, 16, 0, 0},
      {Command::dma_read, 0x1000, 0, 0, 0},
      {Command::dma_read, 0x1ffff8, 16, 0, 0},  // across two mappings
      {Command::dma_write, 0x1ffff8, 16, 16, EPERM},
      {Command::dma_write, 0x200000, 16, 16, EPERM},
      {Command::dma_read, 0x2ffff8, 16, 0, ENODEV},
      {Command::dma_read, 0x500000, 16, 0, ENODEV},
      {Command::dma_read, kTop - 7, 16, 0, ENODEV},
      {Command::dma_read, 0x1000, kTop, 0, E2BIG},
      {Command::dma_read, 0x1000, (1 << 20) + 1, 0, E2BIG},
      {Command::dma_write, 0x1000, 17, 16, E2BIG},
      {Command::dma_write, 0x1000, 15, 16, E2BIG},
      {Command::region_read, 0x1000, 15, 0, ENOSYS},
  };
  server_.on(Command::device_reset, [](ScriptedServer& server, const Message&) {
    for (const auto& each : cases) {
      const auto answer = server.ask(each.command, MessageBuilder()
                                                       .add(DmaAccessHead{each.address, each.count})
                                                       .data(std::vector(each.data, std::byte{0x77})));
      EXPECT_EQ(answer.header.failed() ? static_cast<int>(answer.header.error) : 0, each.error)
          << to_string(each.command) << " " << each.address << " " << each.count;
      if (each.error) continue;
      EXPECT_EQ(answer.payload.size(), 16 + (each.command == Command::dma_read ? each.count : 0));
    }
    EXPECT_EQ(server.ask(Command::dma_read, {}).header.error, static_cast<std::uint32_t>(EINVAL));
    const auto eventfd = make_eventfd();
    EXPECT_EQ(server.ask(Command::dma_read, MessageBuilder().add(DmaAccessHead{0, 1}), {eventfd.get()})
                  .header.error,
              static_cast<std::uint32_t>(EINVAL));
    return Answer{};
  });
  auto device = server_.connect(*memory_);
  ASSERT_TRUE(device);
  const int fd = memory_->blocks()[0]->fd();
  // IOVAs that are not the guest's addresses: found by the file's offset.
  ASSERT_TRUE((*device)->dma_map({Iova{0}, 0x200000, 3, fd, 0x800000, nullptr}));
  ASSERT_TRUE((*device)->dma_map({Iova{0x200000}, 0x100000, 1, fd, 0, nullptr}));
  EXPECT_FALSE((*device)->dma_map({Iova{0x2ff000}, 0x2000, 1, fd, 0, nullptr})) << "overlaps";
  memory_->start_logging();
  ASSERT_TRUE((*device)->reset());
  std::byte seen[17];
  ASSERT_TRUE(memory_->read(Gpa{0x801000}, seen));
  EXPECT_EQ(seen[15], std::byte{0x77});
  EXPECT_EQ(seen[16], std::byte{0});
  EXPECT_EQ(memory_->blocks()[0]->written().count(), 1u);
  EXPECT_TRUE(memory_->blocks()[0]->written().test(0x801));
}

}  // namespace
}  // namespace handover::vfio_user
