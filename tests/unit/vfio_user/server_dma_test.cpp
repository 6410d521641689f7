#include <sys/mman.h>

#include <cstring>
#include <future>

#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;

class ServerDma : public ServedToy {
 protected:
  void SetUp() override { serve(); }

  static constexpr std::uint64_t kRam = 1 << 20;

  // On the device's own thread, as DMA really comes.
  template <class Work>
  Status on_device(Work work) {
    auto result = std::make_shared<std::promise<Status>>();
    toy_->post([=] { result->set_value(work()); });
    return result->get_future().get();
  }
  Status dma_write(std::uint64_t at, std::size_t size, std::byte value = std::byte{0xee}) {
    return on_device([=, this] { return toy_->bus().dma_write(Iova{at}, std::vector(size, value)); });
  }
  Status dma_read(std::uint64_t at, std::vector<std::byte>& to) {
    return on_device([&, at] { return toy_->bus().dma_read(Iova{at}, to); });
  }
};

TEST_F(ServerDma, OverlapsAreRefusedAndIdenticalRepeatsAreNot) {
  const auto file = make_memfd(kRam), other = make_memfd(kRam);
  auto wire = client();
  ASSERT_EQ(wire.map(0x10000, 0x10000, {file.get()}), 0);
  EXPECT_EQ(wire.map(0x10000, 0x10000, {file.get()}), 0) << "identical";
  EXPECT_EQ(wire.map(0x10000, 0x10000, {other.get()}), EEXIST) << "another file";
  EXPECT_EQ(wire.map(0x10000, 0x10000), EEXIST) << "no file";
  EXPECT_EQ(wire.map(0x10000, 0x10000, {file.get()}, 0, 1), EEXIST) << "other permissions";
  EXPECT_EQ(wire.map(0x10000, 0x10000, {file.get()}, 0x1000), EEXIST) << "another offset";
  for (const auto& [at, size] :
       {std::pair{0x8000, 0x8001}, {0x1f000, 0x10000}, {0x14000, 0x1000}, {0, 0x100000}})
    EXPECT_EQ(wire.map(static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(size)), EEXIST) << at;
  EXPECT_EQ(wire.map(0x8000, 0x8000), 0) << "touches the front";
  EXPECT_EQ(wire.map(0x20000, 0x8000), 0) << "touches the back";
}

TEST_F(ServerDma, MappingsThatCannotBeAreRefused) {
  const auto file = make_memfd(kRam);
  const UniqueFd read_only(
      ::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDONLY | O_CLOEXEC));
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd pipe_read(ends[0]), pipe_write(ends[1]);
  auto wire = client();
  const auto before = open_fds();
  constexpr auto kTop = ~std::uint64_t{0};
  EXPECT_EQ(wire.map(0, 0), EINVAL) << "nothing";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {}, 0, 3, 31), EINVAL) << "argsz";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {}, 0, 16), EINVAL) << "unknown flag";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {}, 0, 3 | 4), EINVAL) << "use mmap of nothing";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {file.get()}, 0, 3 | 12), EINVAL) << "mmap and file I/O";
  EXPECT_EQ(wire.map(kTop - 0xffe, 0x1000), EINVAL) << "wraps";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {file.get()}, kTop - 10), EINVAL) << "offset wraps";
  EXPECT_EQ(wire.map(0x1000, 0x2000, {file.get()}, kRam - 0x1000), EINVAL) << "beyond the end of the file";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {read_only.get()}), EACCES) << "read-only descriptor";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {pipe_read.get()}), EINVAL) << "a pipe";
  EXPECT_EQ(wire.map(0x1000, 0x1000, {wire.fd()}), EINVAL) << "the connection itself";
  EXPECT_EQ(open_fds(), before);
  EXPECT_EQ(wire.map(0x1000, 0x1000, {read_only.get()}, 0, 1), 0) << "read-only is enough to read";
  EXPECT_EQ(wire.map(kTop - 0xfff, 0x1000), 0) << "ends at 2^64";
  EXPECT_EQ(wire.map(0x2003, 0x11, {file.get()}, 0x77), 0) << "unaligned";
  EXPECT_EQ(wire.map(1ull << 62, 1ull << 50), 0) << "huge, without memory";
  EXPECT_TRUE(dma_write(0x2005, 4));
  EXPECT_FALSE(dma_write(0x1000, 4)) << "not writable";
}

TEST_F(ServerDma, UnmapTakesWhatLiesInsideAndCutsNothing) {
  auto wire = client();
  for (std::uint64_t at = 0x10000; at < 0x20000; at += 0x1000)
    ASSERT_EQ(wire.map(at, 0x1000), 0);
  EXPECT_EQ(wire.unmap(0x10800, 0x1000), EINVAL) << "cuts two";
  EXPECT_EQ(wire.unmap(0x10000, 0x1800), EINVAL) << "cuts the second";
  EXPECT_EQ(wire.unmap(0x12000, 0x4000), 0) << "four of them";
  EXPECT_EQ(wire.unmap(0x12000, 0x4000), 0) << "nothing there";
  EXPECT_EQ(wire.map(0x12000, 0x4000), 0);
  EXPECT_EQ(wire.unmap(0, 0), EINVAL);
  EXPECT_EQ(wire.unmap(~std::uint64_t{0}, 2), EINVAL) << "wraps";
  EXPECT_EQ(wire.unmap(0x10000, 0x1000, 0, 23), EINVAL) << "argsz";
  EXPECT_EQ(wire.unmap(0x10000, 0x1000, 4), EINVAL) << "unknown flag";
  EXPECT_EQ(wire.unmap(0, 0, 3), EINVAL) << "both flags";
  EXPECT_EQ(wire.unmap(0, 1, 2), EINVAL) << "all, with a range";
  // As QEMU does behind a vIOMMU: up to 2^64.
  EXPECT_EQ(wire.unmap(0x11000, ~std::uint64_t{0} - 0x11000 + 1), 0);
  EXPECT_EQ(wire.map(0x11000, 0x100000), 0);
  EXPECT_EQ(wire.unmap(0, 0, 2), 0);
  EXPECT_EQ(wire.unmap(0, 0, 2), 0);
  EXPECT_EQ(wire.map(0, 0x100000), 0) << "everything was gone";
}

TEST_F(ServerDma, LimitOfMappingsHolds) {
  server_.reset();
  auto server = Server::create(*loop_, *toy_, {path_, 1 << 20, 3});
  ASSERT_TRUE(server);
  server_ = std::move(*server);
  auto wire = client();
  for (std::uint64_t i = 0; i < 3; ++i)
    EXPECT_EQ(wire.map(i << 20, 0x1000), 0);
  EXPECT_EQ(wire.map(9 << 20, 0x1000), ENOSPC);
  EXPECT_EQ(wire.unmap(0, 0x1000), 0);
  EXPECT_EQ(wire.map(9 << 20, 0x1000), 0);
}

TEST_F(ServerDma, FileThatIsCutShortFailsTheDmaAndNotTheServer) {
  const auto file = make_memfd(kRam);
  auto wire = client();
  ASSERT_EQ(wire.map(0, kRam, {file.get()}), 0);
  EXPECT_TRUE(dma_write(0, kRam));
  ASSERT_EQ(::ftruncate(file.get(), 0x4000), 0);
  EXPECT_FALSE(dma_write(0x8000, 0x1000));
  EXPECT_FALSE(dma_write(0x3000, 0x2000)) << "half of it is gone";
  std::vector<std::byte> bytes(0x1000);
  EXPECT_FALSE(dma_read(0x8000, bytes));
  EXPECT_TRUE(dma_write(0x1000, 0x1000));
  EXPECT_TRUE(wire.alive());
}

TEST_F(ServerDma, SealedFileIsCopiedPlainly) {
  const auto file = make_memfd(kRam, F_SEAL_SHRINK);
  auto wire = client();
  ASSERT_EQ(wire.map(0x100000, 0x2000, {file.get()}, 0x5000), 0);
  ASSERT_TRUE(dma_write(0x100ff0, 0x20, std::byte{0x3c}));
  std::byte seen[0x20];
  ASSERT_EQ(::pread(file.get(), seen, sizeof seen, 0x5ff0), 0x20);
  EXPECT_EQ(seen[0], std::byte{0x3c});
  EXPECT_EQ(seen[0x1f], std::byte{0x3c});
}

TEST_F(ServerDma, MessagesCrossTheClientsCommandsInBothDirections) {
  auto wire = client();
  ASSERT_EQ(wire.map(0, kRam), 0);
  auto done = std::make_shared<std::promise<Status>>();
  auto read = std::make_shared<std::vector<std::byte>>(100000);
  toy_->post([=, this] { done->set_value(toy_->bus().dma_read(Iova{0x100}, *read)); });
  std::size_t given = 0;
  while (given < read->size()) {
    auto question = wire.receive();
    ASSERT_TRUE(question);
    ASSERT_EQ(question->command(), Command::dma_read);
    const auto access = decode<DmaAccessHead>(question->payload);
    ASSERT_LE(access->count, 65536u) << "more than QEMU can answer";
    // A command of ours comes before the answer.
    EXPECT_TRUE(wire.alive());
    const std::vector<std::byte> data(access->count, static_cast<std::byte>(1 + given / 65536));
    ASSERT_TRUE(
        wire.send_bytes(MessageBuilder().add(*access).data(data).finish(reply_header(question->header))));
    given += access->count;
  }
  EXPECT_TRUE(done->get_future().get());
  EXPECT_EQ(read->front(), std::byte{1});
  EXPECT_EQ(read->back(), std::byte{2});
}

TEST_F(ServerDma, WrongAnswersFailTheDma) {
  auto wire = client();
  ASSERT_EQ(wire.map(0, kRam), 0);
  const auto question_then = [&](auto answer) {
    auto done = std::make_shared<std::promise<Status>>();
    toy_->post([=, this] {
      std::byte bytes[16];
      done->set_value(toy_->bus().dma_read(Iova{0x100}, bytes));
    });
    auto question = wire.receive();
    EXPECT_TRUE(question);
    answer(question->header, *decode<DmaAccessHead>(question->payload));
    return done->get_future().get();
  };
  EXPECT_FALSE(question_then(
      [&](Header h, DmaAccessHead) { wire.send_bytes(MessageBuilder().finish(reply_header(h, ENODEV))); }));
  EXPECT_FALSE(question_then(
      [&](Header h, DmaAccessHead) { wire.send_bytes(MessageBuilder().finish(reply_header(h))); }));
  EXPECT_FALSE(question_then([&](Header h, DmaAccessHead a) {
    wire.send_bytes(MessageBuilder().add(a).data(std::vector<std::byte>(15)).finish(reply_header(h)));
  }));
  EXPECT_FALSE(question_then([&](Header h, DmaAccessHead a) {
    ++a.address;
    wire.send_bytes(MessageBuilder().add(a).data(std::vector<std::byte>(16)).finish(reply_header(h)));
  }));
  EXPECT_TRUE(question_then([&](Header h, DmaAccessHead a) {
    auto other = h;
    other.id = static_cast<std::uint16_t>(h.id + 1000);
    wire.send_bytes(MessageBuilder().finish(reply_header(other)));
    wire.send_bytes(MessageBuilder().add(a).data(std::vector<std::byte>(16)).finish(reply_header(h)));
  })) << "an answer to nothing is dropped";
  EXPECT_TRUE(wire.alive());
}

TEST_F(ServerDma, UnansweredMessageEndsWithTheMappingOrTheClient) {
  for (const bool unmap : {true, false}) {
    auto wire = client();
    ASSERT_EQ(wire.map(0, kRam), 0);
    auto done = std::make_shared<std::promise<Status>>();
    std::thread device([&] {
      std::byte bytes[16];
      done->set_value(toy_->bus().dma_read(Iova{0x100}, bytes));
    });
    ASSERT_EQ(wire.receive()->command(), Command::dma_read);
    if (unmap) {
      EXPECT_EQ(wire.unmap(0, kRam), 0);
    } else {
      wire.close();
    }
    EXPECT_FALSE(done->get_future().get());
    device.join();
    EXPECT_TRUE(!unmap || wire.alive());
    wire.close();
    ASSERT_TRUE(idle());
  }
}

TEST_F(ServerDma, NoAccessTouchesARangeAfterItsUnmapWasAnswered) {
  const auto file = make_memfd(kRam);
  auto wire = client();
  std::atomic<bool> stop{false};
  std::vector<std::thread> engines;
  for (int i = 0; i < 3; ++i)
    engines.emplace_back([&, i] {
      const std::vector<std::byte> data(0x3000, static_cast<std::byte>(i + 1));
      while (!stop)
        (void)toy_->bus().dma_write(Iova{0x1000}, data);
    });
  void* memory = ::mmap(nullptr, kRam, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  for (int round = 0; round < 200; ++round) {
    ASSERT_EQ(wire.map(0, kRam, {file.get()}), 0);
    ASSERT_EQ(wire.unmap(0, kRam), 0);
    std::memset(memory, 0, 0x8000);
    std::this_thread::yield();
    const auto* bytes = static_cast<const std::byte*>(memory);
    ASSERT_TRUE(std::all_of(bytes, bytes + 0x8000, [](std::byte b) { return b == std::byte{0}; })) << round;
  }
  stop = true;
  for (auto& engine : engines)
    engine.join();
  ::munmap(memory, kRam);
}

TEST_F(ServerDma, LogTakesWhatWasWrittenByMemoryAndByMessage) {
  const auto file = make_memfd(kRam);
  auto wire = client();
  ASSERT_EQ(wire.map(0, kRam, {file.get()}), 0);
  ASSERT_EQ(wire.map(kRam, kRam), 0);
  ASSERT_TRUE(dma_write(0x2000, 1));  // before the start: not logged
  const auto feature = [&](std::uint32_t flags, std::uint32_t argsz, std::vector<std::byte> data) {
    return wire.call(Command::device_feature, MessageBuilder().add(FeatureHead{argsz, flags}).data(data));
  };
  NativeWriter start;
  encode(start, DmaLoggingStartHead{4096, 0, 0});
  ASSERT_FALSE(feature(kFeatureDmaLoggingStart | kFeatureSet, 24, start.take()).header.failed());
  ASSERT_TRUE(dma_write(0x5fff, 2));
  std::thread device([&] {
    const std::byte bytes[16] = {};
    EXPECT_TRUE(toy_->bus().dma_write(Iova{kRam + 0x1000}, bytes));
  });
  const auto question = wire.receive();
  ASSERT_EQ(question->command(), Command::dma_write);
  ASSERT_TRUE(wire.send_bytes(MessageBuilder()
                                  .add(*decode<DmaAccessHead>(question->payload))
                                  .finish(reply_header(question->header))));
  device.join();

  NativeWriter range;
  encode(range, DmaLoggingReportHead{0x4000, kRam, 4096});  // across both mappings
  const auto reply = feature(kFeatureDmaLoggingReport | kFeatureGet, 8 + 24 + 32, range.take());
  ASSERT_FALSE(reply.header.failed());
  ASSERT_EQ(reply.payload.size(), 8u + 24 + 32);
  const auto* bitmap = reply.payload.data() + 32;
  EXPECT_EQ(load_le<std::uint64_t>(bitmap), 0x6u);
  const auto page = (kRam + 0x1000 - 0x4000) / 4096;
  EXPECT_EQ(load_le<std::uint64_t>(bitmap + page / 64 * 8), std::uint64_t{1} << page % 64);
}

}  // namespace
}  // namespace handover::vfio_user
