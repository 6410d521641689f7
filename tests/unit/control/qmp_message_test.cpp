#include "control/qmp_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace handover::control {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string fault(std::string_view text) {
  auto parsed = parse_request(text);
  EXPECT_FALSE(parsed.request) << text;
  return parsed.request ? "" : parsed.request.error().to_string();
}

TEST(QmpMessage, RequestHasCommandArgumentsAndId) {
  auto parsed = parse_request(R"({"execute": "migrate", "arguments": {"uri": "tcp:a:1"}, "id": {"n": 1}})");
  ASSERT_TRUE(parsed.request);
  EXPECT_EQ(parsed.request->command, "migrate");
  EXPECT_EQ(parsed.request->arguments, (json{{"uri", "tcp:a:1"}}));
  EXPECT_EQ(parsed.id, (json{{"n", 1}}));

  parsed = parse_request(R"({"execute": "stop"})");
  ASSERT_TRUE(parsed.request);
  EXPECT_TRUE(parsed.request->arguments.is_object());
  EXPECT_FALSE(parsed.id);
}

TEST(QmpMessage, FaultyRequestsSayWhatIsWrong) {
  EXPECT_THAT(fault("{"), HasSubstr("valid JSON"));
  EXPECT_THAT(fault(""), HasSubstr("valid JSON"));
  EXPECT_THAT(fault("{} {}"), HasSubstr("valid JSON"));
  EXPECT_THAT(fault("\"\xff\""), HasSubstr("valid JSON"));
  EXPECT_THAT(fault("[1e999]"), HasSubstr("valid JSON"));
  EXPECT_THAT(fault("[]"), HasSubstr("object"));
  EXPECT_THAT(fault("{}"), HasSubstr("execute"));
  EXPECT_THAT(fault(R"({"execute": 7})"), HasSubstr("execute"));
  EXPECT_THAT(fault(R"({"execute": "a", "arguments": []})"), HasSubstr("arguments"));
  EXPECT_THAT(fault(R"({"exec-oob": "a"})"), HasSubstr("exec-oob"));
}

TEST(QmpMessage, FaultyRequestKeepsItsId) {
  EXPECT_EQ(parse_request(R"({"id": 5, "execute": 1})").id, json(5));
}

TEST(QmpMessage, DeepNestingIsRefusedBeforeItTakesStack) {
  const std::string deep(500'000, '[');
  EXPECT_THAT(fault(deep + std::string(500'000, ']')), HasSubstr("nested"));
  const std::string most = std::string(kMaxNesting, '[') + std::string(kMaxNesting, ']');
  EXPECT_TRUE(parse_json(most));
  EXPECT_FALSE(parse_json("[" + most + "]"));
  EXPECT_TRUE(parse_json("\"" + std::string(1000, '[') + "\""));
}

TEST(QmpMessage, AnswersEchoTheIdOnlyIfThereIsOne) {
  EXPECT_EQ(return_message(json::object(), std::nullopt), json::parse(R"({"return": {}})"));
  EXPECT_EQ(return_message(3, json("x")), json::parse(R"({"return": 3, "id": "x"})"));
  EXPECT_EQ(error_message(kGenericError, "no", json(1)),
            json::parse(R"({"error": {"class": "GenericError", "desc": "no"}, "id": 1})"));
}

TEST(QmpMessage, EventsCarrySecondsAndMicroseconds) {
  const auto when = std::chrono::system_clock::time_point(std::chrono::microseconds(1'234'567'890));
  EXPECT_EQ(event_message("STOP", json::object(), when),
            json::parse(R"({"event": "STOP", "timestamp": {"seconds": 1234, "microseconds": 567890}})"));
  EXPECT_EQ(event_message("MIGRATION", {{"status", "setup"}}, when)["data"], (json{{"status", "setup"}}));
}

TEST(QmpMessage, LinesRepairTextThatIsNoUtf8) {
  const auto line = to_line(json{{"a", "x\xffy\n"}});
  EXPECT_TRUE(line.ends_with("\r\n"));
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_TRUE(parse_json(line));
}

TEST(QmpMessage, GreetingHasQemusShape) {
  const auto hello = greeting();
  EXPECT_TRUE(hello["QMP"]["version"]["qemu"]["major"].is_number());
  EXPECT_TRUE(hello["QMP"]["capabilities"].is_array());
  EXPECT_THAT(hello["QMP"]["version"]["package"], HasSubstr("handover"));
}

}  // namespace
}  // namespace handover::control
