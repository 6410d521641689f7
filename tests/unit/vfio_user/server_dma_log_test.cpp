// The log of a server that has the limits of hardware.

#include <set>

#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kRam = 1 << 20;
constexpr std::uint64_t kRamPages = kRam / kPage;

class ServerDmaLog : public ServedToy {
 protected:
  using Ranges = std::vector<LoggedRange>;
  using Pages = std::set<std::uint64_t>;

  void serve_with(std::uint32_t ranges, std::uint64_t bytes) {
    ServerOptions options;
    options.max_dma_log_ranges = ranges;
    options.max_dma_log_bytes = bytes;
    serve(7, std::move(options));
    wire_.emplace(client());
    ASSERT_EQ(wire_->map(0, kRam, {file_.get()}), 0);
  }
  int start(const Ranges& ranges) {
    DmaLoggingStart start;
    start.head.page_size = kPage;
    start.ranges = ranges;
    NativeWriter data;
    start.encode(data);
    return wire_->call_errno(
        Command::device_feature,
        MessageBuilder().add(FeatureHead{4096, kFeatureDmaLoggingStart | kFeatureSet}).data(data.take()));
  }
  void write(std::uint64_t at, std::size_t size = 1) {
    ASSERT_TRUE(toy_->bus().dma_write(Iova{at}, std::vector(size, std::byte{0xee})));
  }
  void write_pages(const Pages& pages) {
    for (const auto page : pages)
      write(page * kPage);
  }
  static Pages pages_of(std::span<const std::byte> bitmap) {
    Pages pages;
    for (std::uint64_t page = 0; page < bitmap.size() * 8; ++page)
      if ((bitmap[page / 8] >> (page % 8) & std::byte{1}) != std::byte{0}) pages.insert(page);
    return pages;
  }
  /// What is reported of the RAM.
  Pages report() {
    NativeWriter range;
    encode(range, DmaLoggingReportHead{0, kRam, kPage});
    const auto reply = wire_->call(
        Command::device_feature,
        MessageBuilder().add(FeatureHead{4096, kFeatureDmaLoggingReport | kFeatureGet}).data(range.take()));
    EXPECT_FALSE(reply.header.failed()) << reply.header.error;
    return reply.payload.size() < 32 ? Pages{} : pages_of(std::span(reply.payload).subspan(32));
  }
  /// The RAM is unmapped; what its reply says was written.
  Pages unmap_and_report() {
    DmaUnmap request;
    request.head = {4096, kDmaUnmapGetDirtyBitmap, 0, kRam};
    request.bitmap_shape = {kPage, kRamPages / 8};
    const auto reply = wire_->call(Command::dma_unmap, MessageBuilder().add(request));
    EXPECT_FALSE(reply.header.failed()) << reply.header.error;
    const auto answer = DmaUnmap::decode(reply.payload);
    return answer ? pages_of(answer->bitmap) : Pages{};
  }

  const UniqueFd file_ = make_memfd(kRam);
  std::optional<WireClient> wire_;
};

TEST_F(ServerDmaLog, WithoutLimitsEverythingIsLoggedWhateverIsNamed) {
  serve_with(0, 0);
  Ranges many(100, LoggedRange{0x1000, 0x1000});
  ASSERT_EQ(start(many), 0);
  write_pages({0, 1, 100});
  EXPECT_EQ(report(), (Pages{0, 1, 100}));
}

TEST_F(ServerDmaLog, MoreRangesThanItHasAreRefused) {
  serve_with(2, 0);
  const Ranges two{{0, kPage}, {4 * kPage, kPage}};
  auto three = two;
  three.push_back({8 * kPage, kPage});
  EXPECT_EQ(start(three), E2BIG);
  EXPECT_EQ(start(two), 0);
  write_pages({0, 4});
  EXPECT_EQ(start(three), E2BIG);
  write_pages({8});
  EXPECT_EQ(report(), (Pages{0, 4})) << "a refused start leaves everything as it was";
}

TEST_F(ServerDmaLog, MoreBytesThanItHasAreRefused) {
  serve_with(0, 8 * kPage);
  EXPECT_EQ(start({{0, 9 * kPage}}), EOPNOTSUPP);
  EXPECT_EQ(start({{0, 4 * kPage}, {100 * kPage, 4 * kPage + 1}}), EOPNOTSUPP) << "in sum";
  EXPECT_EQ(start({}), EOPNOTSUPP) << "everything";
  constexpr auto kTop = ~std::uint64_t{0};
  EXPECT_EQ(start({{0, kTop}, {kTop, 1}}), EOPNOTSUPP) << "a sum beyond 64 bits";
  EXPECT_EQ(start({{100 * kPage, 4 * kPage}, {0, 4 * kPage}}), 0) << "any order, all of it";
}

TEST_F(ServerDmaLog, RangesThatMakeNoSenseAreRefused) {
  serve_with(4, 1 << 20);
  EXPECT_EQ(start({{0, 2 * kPage}, {kPage, kPage}}), EINVAL) << "overlap";
  EXPECT_EQ(start({{kPage, 1}, {kPage, 1}}), EINVAL) << "twice the same";
  EXPECT_EQ(start({{0, 0}}), EINVAL) << "empty";
  EXPECT_EQ(start({{~std::uint64_t{0}, 2}}), EINVAL) << "wraps";
  EXPECT_EQ(start({{0, kPage}, {kPage, kPage}}), 0) << "adjacent ones do not overlap";
}

TEST_F(ServerDmaLog, OnlyWhatIsInsideTheRangesIsLogged) {
  serve_with(2, 64 * kPage);
  ASSERT_EQ(start({{10 * kPage, 10 * kPage}, {100 * kPage, kPage}}), 0);
  write_pages({0, 9, 20, 99, 101, 255});
  EXPECT_EQ(report(), Pages{});
  write_pages({10, 19, 100});
  EXPECT_EQ(report(), (Pages{10, 19, 100}));
  write(0, kRam);
  Pages inside{100};
  for (std::uint64_t page = 10; page < 20; ++page)
    inside.insert(page);
  EXPECT_EQ(report(), inside) << "one write across both ranges";
}

TEST_F(ServerDmaLog, WithoutRangesAllIsLoggedIfBytesAreNotLimited) {
  serve_with(1, 0);
  ASSERT_EQ(start({}), 0);
  write_pages({0, 77, 255});
  EXPECT_EQ(report(), (Pages{0, 77, 255}));
}

TEST_F(ServerDmaLog, AnotherStartReplacesTheRangesAndKeepsTheirMarks) {
  serve_with(2, 0);
  ASSERT_EQ(start({{0, 8 * kPage}, {64 * kPage, 8 * kPage}}), 0);
  write_pages({1, 5, 66, 70});
  ASSERT_EQ(start({{4 * kPage, 64 * kPage - kPage}, {200 * kPage, kPage}}), 0);
  write_pages({2, 60, 68, 200});
  EXPECT_EQ(report(), (Pages{5, 60, 66, 200})) << "1 and 70 are in no range any more";
  ASSERT_EQ(start({}), 0);
  write_pages({2, 68});
  EXPECT_EQ(report(), (Pages{2, 68}));
}

TEST_F(ServerDmaLog, StartAfterAStopBeginsWithNothing) {
  serve_with(2, 0);
  ASSERT_EQ(start({{0, kRam}}), 0);
  write_pages({3});
  ASSERT_EQ(wire_->call_errno(Command::device_feature,
                              MessageBuilder().add(FeatureHead{8, kFeatureDmaLoggingStop | kFeatureSet})),
            0);
  write_pages({4});
  ASSERT_EQ(start({{0, kRam}}), 0);
  write_pages({5});
  EXPECT_EQ(report(), (Pages{5}));
}

TEST_F(ServerDmaLog, UnmapSaysWhatWasLoggedOfIt) {
  serve_with(1, 0);
  ASSERT_EQ(start({{16 * kPage, 16 * kPage}}), 0);
  write_pages({1, 17, 31, 32});
  EXPECT_EQ(unmap_and_report(), (Pages{17, 31}));
}

TEST_F(ServerDmaLog, WhatIsWrittenByMessageIsLoggedByTheSameRanges) {
  serve_with(1, 0);
  ASSERT_EQ(wire_->unmap(0, kRam), 0);
  ASSERT_EQ(wire_->map(0, kRam), 0) << "without a descriptor";
  ASSERT_EQ(start({{16 * kPage, 16 * kPage}}), 0);
  std::thread device([&] { write(15 * kPage, 2 * kPage); });
  const auto question = wire_->receive();
  ASSERT_TRUE(question);
  ASSERT_EQ(question->command(), Command::dma_write);
  ASSERT_TRUE(wire_->send_bytes(MessageBuilder()
                                    .add(*decode<DmaAccessHead>(question->payload))
                                    .finish(reply_header(question->header))));
  device.join();
  EXPECT_EQ(report(), (Pages{16}));
}

TEST_F(ServerDmaLog, StartsWhileTheDeviceWritesLoseNothingThatBothRangesHave) {
  serve_with(2, 0);
  const Ranges low{{0, 128 * kPage}}, high{{64 * kPage, 128 * kPage}};
  ASSERT_EQ(start(low), 0);
  Pages all;
  for (std::uint64_t page = 64; page < 128; ++page)
    all.insert(page);
  for (int round = 0; round < 50; ++round) {
    std::atomic<bool> done{false};
    std::thread device([&] {
      write_pages(all);
      done = true;
    });
    Pages seen;
    for (int i = 0; !done; ++i) {
      EXPECT_EQ(start(i % 2 == 0 ? high : low), 0);
      seen.merge(report());
    }
    device.join();
    seen.merge(report());
    ASSERT_EQ(seen, all) << "round " << round;
  }
}

}  // namespace
}  // namespace handover::vfio_user
