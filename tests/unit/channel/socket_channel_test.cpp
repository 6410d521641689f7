#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "handover/channel/channel.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"

namespace handover {
namespace {

using test::TempFolder;
using test::to_bytes;
using testing::HasSubstr;
using testing::StartsWith;

Address parsed(const std::string& text) {
  auto address = Address::parse(text);
  if (!address) ADD_FAILURE() << address.error().to_string();
  return address.value_or(Address{});
}

struct Pair {
  std::unique_ptr<Channel> a, b;
};

Pair socket_pair() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  return {*adopt_channel(UniqueFd(fds[0]), "a"), *adopt_channel(UniqueFd(fds[1]), "b")};
}

Pair pipe_pair() {
  int fds[2];
  EXPECT_EQ(::pipe(fds), 0);
  return {*adopt_channel(UniqueFd(fds[0]), "reader"), *adopt_channel(UniqueFd(fds[1]), "writer")};
}

std::string read_text(Channel& channel, std::size_t size) {
  std::string text(size, '\0');
  auto status = channel.read_exact(std::as_writable_bytes(std::span(text)));
  return status ? text : "error: " + status.error().to_string();
}

TEST(SocketChannel, TcpListenerReportsThePortItPicked) {
  auto listener = listen_on(parsed("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener) << listener.error().to_string();
  EXPECT_NE((*listener)->address().port, 0);
  auto client = connect_channel((*listener)->address(), {});
  ASSERT_TRUE(client) << client.error().to_string();
  auto server = (*listener)->accept({});
  ASSERT_TRUE(server);
  EXPECT_THAT((*server)->name(), StartsWith("tcp:127.0.0.1:"));
  EXPECT_TRUE((*client)->two_way());
  ASSERT_TRUE((*client)->write_all(to_bytes("ping")));
  EXPECT_EQ(read_text(**server, 4), "ping");
  ASSERT_TRUE((*server)->write_all(to_bytes("pong")));
  EXPECT_EQ(read_text(**client, 4), "pong");
}

TEST(SocketChannel, FinishWritingEndsOneDirectionOnly) {
  auto pair = socket_pair();
  ASSERT_TRUE(pair.a->write_all(to_bytes("last")));
  pair.a->finish_writing();
  EXPECT_EQ(read_text(*pair.b, 4), "last");
  std::byte one[1];
  EXPECT_EQ(pair.b->read_some(one).value(), 0u);
  ASSERT_TRUE(pair.b->write_all(to_bytes("answer")));
  EXPECT_EQ(read_text(*pair.a, 6), "answer");
}

TEST(SocketChannel, EndBeforeTheLastByteIsClosed) {
  auto pair = socket_pair();
  ASSERT_TRUE(pair.a->write_all(to_bytes("abc")));
  pair.a.reset();
  std::byte four[4];
  auto status = pair.b->read_exact(four);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Errc::closed);
  EXPECT_THAT(status.error().to_string(), HasSubstr("3 of 4 bytes"));
}

TEST(SocketChannel, ManyPiecesLargerThanTheSocketBufferArriveWholeAndInOrder) {
  auto pair = socket_pair();
  std::vector<std::byte> sent(8 << 20);
  for (std::size_t i = 0; i < sent.size(); ++i)
    sent[i] = static_cast<std::byte>(i * 31 + (i >> 9));
  // More pieces than one system call takes, of uneven sizes, some of them empty.
  std::vector<iovec> pieces;
  for (std::size_t at = 0, n = 0; at < sent.size(); ++n) {
    const std::size_t size = std::min(sent.size() - at, n % 7 == 3 ? 0 : 1 + n * 37 % 5000);
    pieces.push_back({sent.data() + at, size});
    at += size;
  }
  ASSERT_GT(pieces.size(), 2048u);
  Status written;
  std::jthread writer([&] { written = pair.a->write_all(pieces); });
  std::vector<std::byte> got(sent.size());
  ASSERT_TRUE(pair.b->read_exact(got));
  writer.join();
  EXPECT_TRUE(written);
  EXPECT_TRUE(got == sent);
}

void expect_shutdown_wakes(Channel& channel, std::function<Status()> waits) {
  Status woken;
  std::jthread thread([&] { woken = waits(); });
  channel.shutdown();
  thread.join();
  ASSERT_FALSE(woken);
  EXPECT_EQ(woken.error().code(), Errc::cancelled) << woken.error().to_string();
}

Status read_one(Channel& channel) {
  std::byte one[1];
  return channel.read_exact(one);
}

Status write_for_ever(Channel& channel) {
  const std::vector<std::byte> block(1 << 20);
  for (;;)
    HANDOVER_TRY(channel.write_all(block));
}

TEST(SocketChannel, ShutdownWakesReadersAndWriters) {
  for (auto make : {socket_pair, pipe_pair}) {
    // A pair each: a writer whose peer is shut down may fail before it is shut down itself.
    auto reading = make();
    expect_shutdown_wakes(*reading.a, [&] { return read_one(*reading.a); });
    auto writing = make();
    expect_shutdown_wakes(*writing.b, [&] { return write_for_ever(*writing.b); });
  }
}

TEST(SocketChannel, WritersThatWaitForRoomAreWoken) {
  auto sockets = socket_pair();
  expect_shutdown_wakes(*sockets.a, [&] { return write_for_ever(*sockets.a); });
  EXPECT_EQ(read_one(*sockets.a).error().code(), Errc::cancelled);
}

TEST(SocketChannel, LostPeerIsClosedAndNoSignal) {
  auto before = std::signal(SIGPIPE, SIG_DFL);  // a signal would end the test program
  for (auto make : {socket_pair, pipe_pair}) {
    Pair pair = make();
    pair.a.reset();
    auto status = write_for_ever(*pair.b);
    EXPECT_EQ(status.error().code(), Errc::closed) << status.error().to_string();
  }
  std::signal(SIGPIPE, before);
}

TEST(SocketChannel, RefusedConnectionNamesTheAddressAndTheWayOut) {
  Address gone;
  {
    auto listener = listen_on(parsed("tcp:127.0.0.1:0"));
    ASSERT_TRUE(listener);
    gone = (*listener)->address();
  }
  auto channel = connect_channel(gone, {});
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().to_string(),
            "cannot connect to " + gone.to_string() +
                ": Connection refused; is the destination running with --incoming?");
}

TEST(SocketChannel, UnknownHostIsNamed) {
  auto channel = connect_channel(parsed("tcp:no-such-host.invalid:1"), {});
  ASSERT_FALSE(channel);
  EXPECT_THAT(channel.error().to_string(), HasSubstr("no-such-host.invalid"));
}

TEST(SocketChannel, ConnectAndAcceptCanBeCancelled) {
  TempFolder folder;
  const Address address = parsed("unix:" + (folder / "full.sock"));
  // A listener that never accepts: once its queue is full, connect waits.
  UniqueFd full(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  address.path.copy(name.sun_path, sizeof name.sun_path - 1);
  ASSERT_EQ(::bind(full.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
  ASSERT_EQ(::listen(full.get(), 0), 0);
  auto queued = connect_channel(address, {});
  ASSERT_TRUE(queued);
  CancelSource source;
  Status connected;
  std::jthread connecting([&] {
    auto channel = connect_channel(address, source.token());
    if (!channel) connected = std::unexpected(channel.error());
  });
  auto listener = listen_on(parsed("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener);
  Status accepted;
  std::jthread accepting([&] {
    auto channel = (*listener)->accept(source.token());
    if (!channel) accepted = std::unexpected(channel.error());
  });
  source.cancel("enough");
  connecting.join();
  accepting.join();
  ASSERT_FALSE(connected);
  EXPECT_EQ(connected.error().code(), Errc::cancelled);
  ASSERT_FALSE(accepted);
  EXPECT_EQ(accepted.error().code(), Errc::cancelled);
}

TEST(SocketChannel, DescriptorIsTakenOverOnceAndOnlyIfItIsAStream) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  auto reader = listen_on(parsed("fd:" + std::to_string(fds[0])));
  auto writer = connect_channel(parsed("fd:" + std::to_string(fds[1])), {});
  ASSERT_TRUE(reader);
  ASSERT_TRUE(writer);
  EXPECT_FALSE((*writer)->two_way());
  auto channel = (*reader)->accept({});
  ASSERT_TRUE(channel);
  ASSERT_TRUE((*writer)->write_all(to_bytes("x")));
  EXPECT_EQ(read_text(**channel, 1), "x");
  EXPECT_EQ((*reader)->accept({}).error().code(), Errc::state);

  TempFolder folder;
  test::write_whole_file(folder / "plain", "x");
  const int plain = ::open((folder / "plain").c_str(), O_RDONLY);
  auto refused = connect_channel(parsed("fd:" + std::to_string(plain)), {});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("file:PATH"));
  auto datagram = adopt_channel(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM, 0)), "d");
  ASSERT_FALSE(datagram);
  EXPECT_THAT(datagram.error().to_string(), HasSubstr("not a stream socket"));
  EXPECT_FALSE(connect_channel(parsed("fd:999999"), {}));
}

}  // namespace
}  // namespace handover
