#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "handover/channel/channel.h"
#include "support/temp_folder.h"

namespace handover {
namespace {

using test::TempFolder;
using testing::HasSubstr;

Address unix_address(const std::string& path) {
  return Address::parse("unix:" + path).value();
}

/// A socket file whose process is gone.
void leave_stale_socket(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  path.copy(name.sun_path, sizeof name.sun_path - 1);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
}

bool exists(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0;
}

TEST(UnixListener, StaleSocketFileIsReplacedAndTheOwnOneRemoved) {
  TempFolder folder;
  const std::string path = folder / "s";
  leave_stale_socket(path);
  {
    auto listener = listen_on(unix_address(path));
    ASSERT_TRUE(listener) << listener.error().to_string();
    auto client = connect_channel(unix_address(path), {});
    ASSERT_TRUE(client);
    EXPECT_TRUE((*listener)->accept({}));
  }
  EXPECT_FALSE(exists(path));
}

TEST(UnixListener, SocketInUseIsLeftAloneAndUndisturbed) {
  TempFolder folder;
  const std::string path = folder / "s";
  auto first = listen_on(unix_address(path));
  ASSERT_TRUE(first);
  auto second = listen_on(unix_address(path));
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().to_string(), HasSubstr("in use"));
  // The question whether it is in use was not a connection: the first that is accepted is the real one.
  auto client = connect_channel(unix_address(path), {});
  ASSERT_TRUE(client);
  const std::byte one[1] = {std::byte{7}};
  ASSERT_TRUE((*client)->write_all(one));
  auto server = (*first)->accept({});
  ASSERT_TRUE(server);
  std::byte got[1];
  ASSERT_TRUE((*server)->read_exact(got));
  EXPECT_EQ(got[0], std::byte{7});
}

TEST(UnixListener, FileThatIsNoSocketIsLeftAlone) {
  TempFolder folder;
  const std::string path = folder / "precious";
  test::write_whole_file(path, "data");
  auto listener = listen_on(unix_address(path));
  ASSERT_FALSE(listener);
  EXPECT_THAT(listener.error().to_string(), HasSubstr("not a socket"));
  EXPECT_EQ(test::read_whole_file(path), "data");
}

TEST(UnixListener, NameThatBelongsToAnotherByNowIsLeftAlone) {
  TempFolder folder;
  const std::string path = folder / "s";
  auto first = listen_on(unix_address(path));
  ASSERT_TRUE(first);
  ::rename(path.c_str(), (folder / "moved").c_str());
  auto second = listen_on(unix_address(path));
  ASSERT_TRUE(second) << second.error().to_string();
  first->reset();
  EXPECT_TRUE(exists(path));
  EXPECT_TRUE(connect_channel(unix_address(path), {}));
}

TEST(UnixListener, NobodyListeningIsSaidWithTheWayOut) {
  TempFolder folder;
  auto channel = connect_channel(unix_address(folder / "nobody"), {});
  ASSERT_FALSE(channel);
  EXPECT_THAT(channel.error().to_string(), HasSubstr("is the destination running"));
}

}  // namespace
}  // namespace handover
