// `handover inspect`, the real binary, over streams that QEMU wrote.

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "support/qemu_streams.h"
#include "support/run_binary.h"

namespace handover::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;

const std::string kFolder = HANDOVER_TEST_DATA "/qemu-streams/";

TEST(Inspect, JsonHasEveryKnownFact) {
  for (const auto& stream : qemu_streams(kFolder)) {
    const auto ran = run_handover("inspect --json --hash '" + stream.path + "'");
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_EQ(ran.err, "");
    std::vector<std::string> differences;
    find_differences(main_channel_facts(stream), nlohmann::json::parse(ran.out), stream.name, differences);
    EXPECT_THAT(differences, IsEmpty());
  }
}

TEST(Inspect, WithoutHashNothingIsHashed) {
  const auto ran = run_handover("inspect --json '" + kFolder + "none-512k.mig'");
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.out, Not(HasSubstr("sha256")));
}

TEST(Inspect, TableSaysWhatAPersonLooksFor) {
  const auto ran = run_handover("inspect --hash '" + kFolder + "none-512k-mapped-ram.mig'");
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  for (const char* part :
       {"machine        none", "capabilities   mapped-ram", "run state      prelaunch",
        "length         1574130 bytes", "524288 bytes = 128 pages of 4096", "bitmap at 128, pages at 1048576",
        "a07d6dc4e97506924621b9a6fc650d8449f67170517905b739cc7867d59bc607", "SWITCHOVER_START",
        "globalstate"})
    EXPECT_THAT(ran.out, HasSubstr(part));
}

void expect_failure(const std::string& arguments, int exit_code, const std::string& part) {
  const auto ran = run_handover(arguments);
  EXPECT_EQ(ran.exit_code, exit_code) << ran.err;
  EXPECT_EQ(ran.out, "") << arguments;
  EXPECT_THAT(ran.err, HasSubstr(part));
  if (exit_code != 1) return;
  EXPECT_THAT(ran.err, MatchesRegex("handover inspect: [^\n]+\n"));
}

TEST(Inspect, WhatCannotBeInspectedIsOneLineAndExitCodeOne) {
  TempFolder folder;
  const std::string whole = read_whole_file(kFolder + "none-512k.mig");
  write_whole_file(folder / "cut", whole.substr(0, 3000));
  write_whole_file(folder / "long", whole + "more");
  write_whole_file(folder / "text", "hello, world");
  auto path = [&](const std::string& name) { return "inspect '" + (folder / name) + "'"; };
  expect_failure(path("missing"), 1, "No such file");
  expect_failure(path("."), 1, "is a directory");
  expect_failure(path("text"), 1, "no migration stream");
  expect_failure(path("cut"), 1, "PART of section 'ram' (id 1) at offset 66");
  expect_failure(path("long"), 1, "bytes behind it");
  expect_failure("inspect --json file:,offset=1", 1, "file:PATH");
  expect_failure("inspect", 2, "FILE");
  expect_failure("inspect --hash-limit 0 " + kFolder + "none-512k.mig", 2, "hash-limit");
}

TEST(Inspect, StreamInsideAFileHasItsOffsetInTheAddress) {
  TempFolder folder;
  write_whole_file(folder / "f", "0123456789" + read_whole_file(kFolder + "none-empty.mig"));
  const auto ran = run_handover("inspect --json 'file:" + (folder / "f") + ",offset=10'");
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(nlohmann::json::parse(ran.out)["size"], 1089);
}

TEST(Inspect, OutputThatCannotBeWrittenIsAFailure) {
  const auto ran = run_handover("inspect '" + kFolder + "none-empty.mig' >/dev/full #");
  EXPECT_EQ(ran.exit_code, 1);
}

}  // namespace
}  // namespace handover::test
