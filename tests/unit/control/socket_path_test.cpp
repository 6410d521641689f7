#include "control/socket_path.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "unit/control/qmp_harness.h"

namespace handover::control {
namespace {

using testing::HasSubstr;

std::string refusal(const std::string& path) {
  auto made = SocketPath::listen(path);
  EXPECT_FALSE(made) << path;
  return made ? "" : made.error().to_string();
}

TEST(SocketPath, IsForItsUserAloneAndGoesWithItsOwner) {
  ScratchDirectory scratch;
  const auto path = scratch.file("s");
  {
    auto made = SocketPath::listen(path);
    ASSERT_TRUE(made) << made.error().to_string();
    struct stat found{};
    ASSERT_EQ(::lstat(path.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0077, 0u);
    EXPECT_TRUE(RawClient(path).connected());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(SocketPath, TakesOverWhatADeadProcessLeft) {
  ScratchDirectory scratch;
  const auto path = scratch.file("s");
  {
    const auto address = socket_address(path);
    UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(path));
  auto made = SocketPath::listen(path);
  ASSERT_TRUE(made) << made.error().to_string();
  EXPECT_TRUE(RawClient(path).connected());
}

TEST(SocketPath, RefusesOneThatIsInUse) {
  ScratchDirectory scratch;
  const auto path = scratch.file("s");
  auto first = SocketPath::listen(path);
  ASSERT_TRUE(first);
  EXPECT_THAT(refusal(path), HasSubstr("in use"));
  EXPECT_TRUE(RawClient(path).connected());
}

TEST(SocketPath, RefusesOtherFilesAndMissingDirectories) {
  ScratchDirectory scratch;
  const auto file = scratch.file("precious");
  std::ofstream(file) << "data";
  EXPECT_THAT(refusal(file), HasSubstr("no socket"));
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_THAT(refusal(scratch.file("not/there")),
              testing::AllOf(HasSubstr("directory"), HasSubstr("create it")));
  EXPECT_THAT(refusal(scratch.file(std::string(200, 'x'))), HasSubstr("bytes long"));
  EXPECT_THAT(refusal(""), HasSubstr("empty"));
}

TEST(SocketPath, LeavesAFileAloneThatIsNoLongerItsOwn) {
  ScratchDirectory scratch;
  const auto path = scratch.file("s");
  {
    auto made = SocketPath::listen(path);
    ASSERT_TRUE(made);
    std::filesystem::remove(path);
    std::ofstream(path) << "somebody else's";
  }
  EXPECT_TRUE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace handover::control
