#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handover/channel/channel.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"

namespace handover {
namespace {

using test::TempFolder;
using test::to_bytes;
using testing::HasSubstr;

Address command(const std::string& text) {
  return Address::parse("exec:" + text).value();
}

TEST(ExecChannel, CommandReadsWhatIsWrittenAndCommitWaitsForIt) {
  TempFolder folder;
  auto channel = connect_channel(
      command("cat > '" + (folder / "copy") + "'; echo done >> '" + (folder / "copy") + "'"), {});
  ASSERT_TRUE(channel) << channel.error().to_string();
  EXPECT_FALSE((*channel)->two_way());
  ASSERT_TRUE((*channel)->write_all(to_bytes("state ")));
  auto committed = (*channel)->commit();
  ASSERT_TRUE(committed) << committed.error().to_string();
  EXPECT_EQ(test::read_whole_file(folder / "copy"), "state done\n");
}

TEST(ExecChannel, FailureOfTheCommandIsAFailureOfCommit) {
  auto channel = connect_channel(command("cat > /dev/null; exit 3"), {});
  ASSERT_TRUE(channel);
  ASSERT_TRUE((*channel)->write_all(to_bytes("x")));
  auto status = (*channel)->commit();
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().to_string(), HasSubstr("ended with status 3"));
  EXPECT_THAT(status.error().to_string(), HasSubstr("exec:cat"));
  auto killed = connect_channel(command("kill -9 $$"), {});
  ASSERT_TRUE(killed);
  EXPECT_THAT((*killed)->commit().error().to_string(), HasSubstr("signal 9"));
}

TEST(ExecChannel, OutputOfTheCommandIsRead) {
  auto listener = listen_on(command("printf hello; cat"));
  ASSERT_TRUE(listener);
  auto channel = (*listener)->accept({});
  ASSERT_TRUE(channel);
  std::string text(5, ' ');
  ASSERT_TRUE((*channel)->read_exact(std::as_writable_bytes(std::span(text))));
  EXPECT_EQ(text, "hello");
  std::byte more[1];
  EXPECT_EQ((*channel)->read_some(more).value(), 0u) << "cat has nothing to read and ends";
  EXPECT_TRUE((*channel)->commit());
}

TEST(ExecChannel, CommandThatNeverEndsIsEndedWithTheChannel) {
  TempFolder folder;
  {
    auto listener = listen_on(command("echo $$ > '" + (folder / "pid") + "'; echo x; exec sleep 100000"));
    ASSERT_TRUE(listener);
    auto channel = (*listener)->accept({});
    ASSERT_TRUE(channel);
    std::byte line[2];
    ASSERT_TRUE((*channel)->read_exact(line));
    (*channel)->shutdown();
    EXPECT_EQ((*channel)->read_exact(line).error().code(), Errc::cancelled);
  }
  const pid_t pid = std::stoi(test::read_whole_file(folder / "pid"));
  EXPECT_EQ(::kill(pid, 0), -1) << "it must be gone and reaped";
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1);
}

TEST(ExecChannel, CommandGetsItsSignalsAsAShellExpectsThem) {
  auto before = ::signal(SIGPIPE, SIG_IGN);
  auto channel = connect_channel(command("kill -PIPE $$; exit 7"), {});
  ASSERT_TRUE(channel);
  EXPECT_THAT((*channel)->commit().error().to_string(), HasSubstr("signal 13"));
  ::signal(SIGPIPE, before);
}

}  // namespace
}  // namespace handover
