#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "control/migration_json.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json channels(const json& addr) {
  return {{"channels", json::array({{{"channel-type", "main"}, {"addr", addr}}})}};
}
std::string spelled(const json& arguments) {
  auto address = migration_address(arguments);
  return address ? address->to_string() : "ERROR: " + address.error().to_string();
}

TEST(MigrationAddress, UriAndChannelsSayTheSame) {
  EXPECT_EQ(spelled({{"uri", "tcp:host:44"}}), "tcp:host:44");
  EXPECT_EQ(spelled(channels({{"transport", "socket"}, {"type", "inet"}, {"host", "host"}, {"port", "44"}})),
            "tcp:host:44");
  EXPECT_EQ(spelled(channels({{"transport", "socket"}, {"type", "inet"}, {"host", "::1"}, {"port", "44"}})),
            "tcp:[::1]:44");
  EXPECT_EQ(spelled(channels({{"transport", "socket"}, {"type", "unix"}, {"path", "/a b"}})), "unix:/a b");
  EXPECT_EQ(spelled(channels({{"transport", "socket"}, {"type", "fd"}, {"str", "7"}})), "fd:7");
  EXPECT_EQ(spelled(channels({{"transport", "file"}, {"filename", "/x"}})), "file:/x");
  EXPECT_EQ(spelled(channels({{"transport", "file"}, {"filename", "/x"}, {"offset", 4096}})),
            "file:/x,offset=4096");
}

TEST(MigrationAddress, WordsOfACommandReachItUnchanged) {
  EXPECT_EQ(spelled(channels({{"transport", "exec"}, {"args", {"cat", "it's; rm $HOME"}}})),
            "exec:'cat' 'it'\\''s; rm $HOME'");
}

TEST(MigrationAddress, ExactlyOneOfUriAndChannels) {
  EXPECT_THAT(spelled(json::object()), HasSubstr("exactly one"));
  auto both = channels({{"transport", "file"}, {"filename", "/x"}});
  both["uri"] = "file:/x";
  EXPECT_THAT(spelled(both), HasSubstr("exactly one"));
}

TEST(MigrationAddress, FaultyChannelsAreRefused) {
  const json file{{"transport", "file"}, {"filename", "/x"}};
  for (const json& arguments :
       {json{{"uri", 7}},
        json{{"uri", "smoke:signals"}},
        json{{"uri", std::string("file:/a\0b", 9)}},
        json{{"channels", 7}},
        json{{"channels", json::array()}},
        json{{"channels", {1}}},
        json{{"channels", json::array({{{"channel-type", "main"}}})}},
        json{{"channels", json::array({{{"channel-type", "cpr"}, {"addr", file}}})}},
        json{{"channels", json::array({{{"channel-type", "main"}, {"addr", 5}}})}},
        json{{"channels", json::array({{{"channel-type", "main"}, {"addr", file}, {"x", 1}}})}},
        channels({{"transport", "rdma"}, {"host", "a"}, {"port", "1"}}),
        channels({{"filename", "/x"}}),
        channels({{"transport", "file"}}),
        channels({{"transport", "file"}, {"filename", ""}}),
        channels({{"transport", "file"}, {"filename", "/x"}, {"offset", -1}}),
        channels({{"transport", "file"}, {"filename", "/x"}, {"offset", ~0ull}}),
        channels({{"transport", "exec"}}),
        channels({{"transport", "exec"}, {"args", json::array()}}),
        channels({{"transport", "exec"}, {"args", {1}}}),
        channels({{"transport", "socket"}, {"type", "vsock"}, {"cid", "1"}, {"port", "2"}}),
        channels({{"transport", "socket"}, {"type", "inet"}, {"host", "a"}}),
        channels({{"transport", "socket"}, {"type", "inet"}, {"host", "a"}, {"port", 5}}),
        channels({{"transport", "socket"}, {"type", "inet"}, {"host", "a"}, {"port", "70000"}}),
        channels({{"transport", "socket"}, {"type", "inet"}, {"host", "a"}, {"port", "1"}, {"mptcp", true}}),
        channels({{"transport", "socket"}, {"type", "fd"}, {"str", "name"}})})
    EXPECT_THAT(spelled(arguments), HasSubstr("ERROR")) << arguments;
}

TEST(MigrationAddress, SocketAddressesAreShownInQapisShape) {
  EXPECT_EQ(socket_address_json(*Address::parse("tcp:127.0.0.1:5")),
            (json{{"type", "inet"}, {"host", "127.0.0.1"}, {"port", "5"}}));
  EXPECT_EQ(socket_address_json(*Address::parse("unix:/s")), (json{{"type", "unix"}, {"path", "/s"}}));
  EXPECT_FALSE(socket_address_json(*Address::parse("file:/s")));
}

}  // namespace
}  // namespace handover::control
