#include "handover/channel/address.h"

#include <gmock/gmock.h>

namespace handover {
namespace {

using testing::HasSubstr;

std::string round_trip(std::string_view text) {
  auto address = Address::parse(text);
  return address ? address->to_string() : "error: " + address.error().to_string();
}

TEST(Address, EverySpellingIsTakenAndGivenBack) {
  for (const char* text : {"tcp:127.0.0.1:4444", "tcp:localhost:0", "tcp:[::1]:65535", "tcp::4444",
                           "unix:/run/vm.sock", "unix:vm,x.sock", "fd:0", "fd:37", "file:/tmp/vm.mig",
                           "file:/tmp/vm.mig,offset=4096", "exec:gzip -c > /tmp/a:b", "exec:true"})
    EXPECT_EQ(round_trip(text), text);
}

TEST(Address, PartsGoWhereTheyBelong) {
  auto tcp = Address::parse("tcp:[fe80::1]:4444");
  ASSERT_TRUE(tcp);
  EXPECT_EQ(tcp->host, "fe80::1");
  EXPECT_EQ(tcp->port, 4444);
  auto file = Address::parse("file:/a,b,offset=0x1000");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->path, "/a,b");
  EXPECT_EQ(file->offset, 4096u);
}

TEST(Address, PathThatLooksLikeAnOptionSurvivesPrinting) {
  Address address;
  address.kind = Address::Kind::file;
  address.path = "/tmp/x,offset=7";
  auto again = Address::parse(address.to_string());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->path, address.path);
  EXPECT_EQ(again->offset, 0u);
}

TEST(Address, WhatIsWrongIsSaidWithACorrectSpelling) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "tcp:HOST:PORT"},
      {"tcp", "tcp:HOST:PORT"},
      {"ftp:a:1", "unix:PATH"},
      {"tcp:host", "tcp:127.0.0.1:4444"},
      {"tcp:host:", "tcp:127.0.0.1:4444"},
      {"tcp:host:65536", "between 0 and 65535"},
      {"tcp:host:-1", "between 0 and 65535"},
      {"tcp:host:0x10", "between 0 and 65535"},
      {"tcp:host:12a", "between 0 and 65535"},
      {"tcp:::1:4444", "tcp:[::1]:4444"},
      {"tcp:[]:4444", "tcp:[::1]:4444"},
      {"tcp:a b:4444", "no proper host name"},
      {"unix:", "unix:PATH"},
      {"fd:", "fd:NUMBER"},
      {"fd:-1", "fd:NUMBER"},
      {"fd:99999999999", "fd:NUMBER"},
      {"file:", "file:PATH"},
      {"file:,offset=3", "file:PATH"},
      {"file:/x,offset=", "file:PATH,offset=N"},
      {"file:/x,offset=1k", "file:PATH,offset=N"},
      {"file:/x,offset=9223372036854775808", "file:PATH,offset=N"},
      {"exec:", "exec:COMMAND"},
  };
  for (const auto& [text, part] : cases) {
    auto address = Address::parse(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code(), Errc::invalid_argument) << text;
    EXPECT_THAT(address.error().to_string(), HasSubstr(part)) << text;
  }
  EXPECT_FALSE(Address::parse(std::string_view("unix:/a\0b", 9)));
}

TEST(Address, UnixPathMustFitASocketName) {
  EXPECT_TRUE(Address::parse("unix:" + std::string(107, 'x')));
  auto address = Address::parse("unix:" + std::string(108, 'x'));
  ASSERT_FALSE(address);
  EXPECT_THAT(address.error().to_string(), HasSubstr("107 bytes"));
}

}  // namespace
}  // namespace handover
