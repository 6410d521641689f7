#include <gtest/gtest.h>
#include <sys/socket.h>

#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using protocol::Header;

struct Pair {
  UniqueFd a, b;
  Pair() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    a = UniqueFd(ends[0]);
    b = UniqueFd(ends[1]);
  }
};

std::vector<std::byte> message(std::uint16_t id, std::size_t payload) {
  Header header;
  header.id = id;
  return MessageBuilder().data(std::vector(payload, static_cast<std::byte>(id))).finish(header);
}

TEST(Transport, DescriptorsBelongToTheMessageThatTheyCameWith) {
  Pair pair;
  SendQueue queue;
  queue.push(message(1, 100));
  std::vector<UniqueFd> two;
  two.push_back(make_eventfd());
  two.push_back(make_eventfd());
  queue.push(message(2, 50), std::move(two));
  queue.push(message(3, 0));
  ASSERT_TRUE(*queue.flush(pair.a.get()));
  FrameReader reader(4096);
  for (const auto& [id, payload, fds] : {std::tuple{1, 100u, 0u}, {2, 50u, 2u}, {3, 0u, 0u}}) {
    const auto got = reader.read(pair.b.get());
    ASSERT_TRUE(got && *got);
    EXPECT_EQ((*got)->header.id, id);
    EXPECT_EQ((*got)->payload.size(), payload);
    EXPECT_EQ((*got)->fds.size(), fds);
    for (const auto& fd : (*got)->fds)
      EXPECT_TRUE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC);
  }
  EXPECT_FALSE(*reader.read(pair.b.get())) << "nothing more";
}

TEST(Transport, MessagesArriveInPiecesOfAnySize) {
  Pair pair;
  FrameReader reader(1 << 20);
  for (const auto payload : {0u, 1u, 37u}) {
    const auto bytes = message(7, payload);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      ASSERT_EQ(::send(pair.a.get(), &bytes[i], 1, 0), 1);
      const auto got = reader.read(pair.b.get());
      ASSERT_TRUE(got);
      EXPECT_EQ(got->has_value(), i + 1 == bytes.size()) << i;
    }
  }
}

TEST(Transport, LargeMessageGoesThroughASmallSocketInTurns) {
  Pair pair;
  SendQueue queue;
  queue.push(message(9, 3 << 20));
  EXPECT_FALSE(*queue.flush(pair.a.get())) << "does not fit at once";
  FrameReader reader(4 << 20);
  std::optional<Message> got;
  while (!got) {
    auto next = reader.read(pair.b.get());
    ASSERT_TRUE(next);
    got = std::move(*next);
    ASSERT_TRUE(queue.flush(pair.a.get()));
  }
  EXPECT_EQ(got->payload, std::vector(3 << 20, std::byte{9}));
  EXPECT_EQ(queue.bytes(), 0u);
}

TEST(Transport, BorrowedBytesMayEndOnceTheyWereLetGo) {
  Pair pair;
  SendQueue queue;
  Header header;
  header.id = 9;
  constexpr std::size_t kSize = 3 << 20;
  {
    const std::vector<std::byte> other(kSize, std::byte{8}), borrowed(kSize, std::byte{9});
    queue.push(MessageBuilder().finish(header, kSize), {}, std::span(borrowed));
    queue.push(MessageBuilder().finish(header, kSize), {}, std::span(other));
    EXPECT_EQ(queue.bytes(), 2 * (kSize + protocol::kHeaderSize));
    EXPECT_FALSE(*queue.flush(pair.a.get())) << "part of the first is on its way";
    queue.let_go(borrowed);
    queue.let_go(other);
  }
  FrameReader reader(4 << 20);
  for (const auto content : {std::byte{9}, std::byte{8}}) {
    std::optional<Message> got;
    while (!got) {
      ASSERT_TRUE(queue.flush(pair.a.get()));
      auto next = reader.read(pair.b.get());
      ASSERT_TRUE(next) << next.error().to_string();
      got = std::move(*next);
    }
    EXPECT_EQ(got->payload, std::vector(kSize, content));
  }
  EXPECT_EQ(queue.bytes(), 0u);
}

TEST(Transport, APayloadLandsWhereItWasToldUnlessItIsTooLong) {
  for (const std::size_t payload : {0u, 7u, 8u, 9u, 107u, 108u, 109u, 4000u}) {
    Pair pair;
    std::vector<std::byte> room(100), content(payload);
    for (std::size_t i = 0; i < payload; ++i)
      content[i] = static_cast<std::byte>(i);
    FrameReader reader(8192);
    int asked = 0;
    reader.set_landing([&](const Header& header) {
      EXPECT_EQ(header.id, 5);
      ++asked;
      return FrameReader::Landing{8, room};
    });
    Header header;
    header.id = 5;
    const auto bytes = MessageBuilder().data(content).finish(header);
    std::optional<Message> got;
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      ASSERT_EQ(::send(pair.a.get(), &bytes[at], 1, 0), 1);
      auto next = reader.read(pair.b.get());
      ASSERT_TRUE(next);
      got = std::move(*next);
    }
    ASSERT_TRUE(got);
    const bool lands = payload >= 8 && payload <= 108;
    EXPECT_EQ(asked, 1);
    EXPECT_EQ(got->landed, lands ? payload - 8 : 0);
    EXPECT_EQ(got->payload, std::span(content).first(lands ? 8 : payload));
    EXPECT_TRUE(std::ranges::equal(std::span(room).first(got->landed), std::span(content).last(got->landed)));
  }
}

TEST(Transport, RefusedSizeIsToldWithItsHeader) {
  for (std::uint32_t size : {0u, 15u, 4097u, 0xffffffffu}) {
    Pair pair;
    Header header;
    header.id = 77;
    header.size = size;
    NativeWriter out;
    protocol::encode(out, header);
    ASSERT_EQ(::send(pair.a.get(), out.view().data(), 16, 0), 16);
    FrameReader reader(4096);
    const auto got = reader.read(pair.b.get());
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::limit);
    ASSERT_TRUE(reader.refused());
    EXPECT_EQ(reader.refused()->id, 77);
  }
}

TEST(Transport, EndOfStreamIsClosedAlsoInsideAMessage) {
  for (std::size_t sent : {0u, 5u, 16u, 20u}) {
    Pair pair;
    const auto bytes = message(1, 10);
    if (sent) {
      ASSERT_EQ(::send(pair.a.get(), bytes.data(), sent, 0), static_cast<ssize_t>(sent));
    }
    pair.a.reset();
    FrameReader reader(4096);
    const auto got = reader.read(pair.b.get());
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::closed);
  }
}

TEST(Transport, DescriptorsOfAMessageThatNobodyReadsAreClosed) {
  const auto before = open_fds();
  {
    Pair pair;
    SendQueue queue;
    std::vector<UniqueFd> many;
    for (int i = 0; i < 50; ++i)
      many.push_back(make_eventfd());
    queue.push(message(1, 100), std::move(many));
    ASSERT_TRUE(*queue.flush(pair.a.get()));
    FrameReader reader(32);  // too small: the message is refused
    EXPECT_FALSE(reader.read(pair.b.get()));
  }
  EXPECT_TRUE(eventually([&] { return open_fds() == before; }));
}

TEST(Transport, StaleSocketFileIsReplacedAndALiveOneIsNot) {
  const auto path = test_socket_path("stale");
  {
    auto dead = listen_unix(path);
    ASSERT_TRUE(dead);
  }
  auto live = listen_unix(path);
  ASSERT_TRUE(live) << live.error().to_string();
  const auto second = listen_unix(path);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::state);
  ::unlink(path.c_str());
  EXPECT_FALSE(listen_unix(std::string(200, 'x')));
}

}  // namespace
}  // namespace handover::vfio_user
