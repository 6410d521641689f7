#include "control/qmp_server.h"

#include <gmock/gmock.h>

#include <atomic>
#include <random>
#include <thread>

#include "unit/control/qmp_harness.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class QmpServerTest : public ServerFixture {
 protected:
  CommandTable commands() {
    CommandTable table;
    table.add_quick("echo", [](const json& arguments) -> Result<json> { return arguments; });
    table.add_quick("refuse", [](const json&) -> Result<json> { return fail(Errc::state, "not now"); });
    table.add_quick("throw", [](const json& arguments) -> Result<json> { return arguments.at("missing"); });
    table.add("abandon", [](const json&, const Reply&) {});
    table.add("twice", [](const json&, const Reply& reply) {
      reply(json("first"));
      reply(json("second"));
    });
    table.add("elsewhere", [this](const json& arguments, const Reply& reply) {
      threads_.emplace_back([arguments, reply] { reply(arguments); });
    });
    table.add("hold", [this](const json&, const Reply& reply) { held_.push_back(reply); });
    return table;
  }
  void TearDown() override {
    ServerFixture::TearDown();
    for (auto& thread : threads_)
      thread.join();
  }
  json error_of(RawClient& client, std::string_view text) {
    auto answer = client.ask(text);
    EXPECT_TRUE(answer.contains("error")) << answer;
    return answer.value("error", json::object());
  }

  std::vector<std::thread> threads_;
  std::vector<Reply> held_;
};

TEST_F(QmpServerTest, GreetsAndExpectsNegotiation) {
  serve(commands());
  RawClient client(path_);
  EXPECT_TRUE(client.receive().contains("QMP"));
  EXPECT_EQ(error_of(client, R"({"execute": "echo"})")["class"], "CommandNotFound");
  EXPECT_EQ(error_of(client, R"({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})")["class"],
            "GenericError");
  EXPECT_EQ(error_of(client, R"({"execute": "qmp_capabilities", "arguments": {"enable": 3}})")["class"],
            "GenericError");
  EXPECT_EQ(error_of(client, R"({"execute": "qmp_capabilities", "arguments": {"what": 3}})")["class"],
            "GenericError");
  EXPECT_EQ(client.ask(R"({"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": 1})"),
            json::parse(R"({"return": {}, "id": 1})"));
  EXPECT_EQ(error_of(client, R"({"execute": "qmp_capabilities"})")["class"], "CommandNotFound");
}

TEST_F(QmpServerTest, AnswersEchoIdsOfAnyShape) {
  serve(commands());
  RawClient client(path_);
  client.negotiate();
  for (const char* id : {"1", "\"x\"", "null", "[1, {\"a\": 2}]", "-1.5", "18446744073709551615"}) {
    auto answer = client.ask(fmt::format("{{\"execute\": \"echo\", \"id\": {}}}\n", id));
    EXPECT_EQ(answer, (json{{"return", json::object()}, {"id", json::parse(id)}}));
    answer = client.ask(fmt::format("{{\"execute\": \"refuse\", \"id\": {}}}\n", id));
    EXPECT_EQ(answer["id"], json::parse(id));
    EXPECT_EQ(answer["error"], (json{{"class", "GenericError"}, {"desc", "not now"}}));
  }
}

TEST_F(QmpServerTest, UnknownCommandsAndFaultyTextsAreAnsweredAndTheSessionGoesOn) {
  serve(commands());
  RawClient client(path_);
  client.negotiate();
  auto unknown = error_of(client, R"({"execute": "fly"})");
  EXPECT_EQ(unknown["class"], "CommandNotFound");
  EXPECT_THAT(unknown["desc"], HasSubstr("fly"));
  for (const char* text : {"garbage\n", "{]\n", "[]\n", "{}\n", "{\"execute\": \"echo\", \"x\": 1}\n",
                           "{\"execute\": \"echo\", \"arguments\": 1}\n", "\xff\n", "\"\n"})
    EXPECT_EQ(error_of(client, text)["class"], "GenericError") << text;
  EXPECT_EQ(error_of(client, R"({"execute": "throw"})")["class"], "GenericError");
  EXPECT_THAT(error_of(client, R"({"execute": "abandon"})")["desc"], HasSubstr("abandoned"));
  EXPECT_EQ(client.ask(R"({"execute": "twice"})")["return"], "first");
  EXPECT_EQ(client.ask(R"({"execute": "echo", "arguments": {"a": 1}})")["return"], (json{{"a", 1}}));
}

TEST_F(QmpServerTest, CommandsSplitOverWritesAndSeveralInOneAreAllAnsweredInOrder) {
  serve(commands());
  RawClient client(path_);
  client.negotiate();
  std::string burst;
  for (int i = 0; i < 500; ++i)
    burst += fmt::format(R"({{"execute": "{}", "arguments": {{"n": {}}}, "id": {}}}{})",
                         i % 7 ? "echo" : "elsewhere", i, i, i % 3 ? "" : "\n");
  std::thread sender([&] {
    for (std::size_t at = 0; at < burst.size(); at += 1000)
      client.send(std::string_view(burst).substr(at, 1000));
  });
  for (int i = 0; i < 500; ++i)
    EXPECT_EQ(client.receive(), (json{{"return", {{"n", i}}}, {"id", i}}));
  sender.join();
  for (char c : std::string(R"({"execute": "echo", "id": 7})"))
    client.send({&c, 1});
  EXPECT_EQ(client.receive()["id"], 7);
}

TEST_F(QmpServerTest, ATextThatIsTooLongIsRefusedAndTheNextIsServed) {
  serve(commands(), {.limits = {.max_text = 1000, .max_unread = 1 << 20}});
  RawClient client(path_);
  client.negotiate();
  auto refused = error_of(client, "{\"execute\": \"" + std::string(5000, 'x') + "\"}\n");
  EXPECT_THAT(refused["desc"], HasSubstr("1000"));
  EXPECT_TRUE(client.ask(R"({"execute": "echo"})").contains("return"));
}

TEST_F(QmpServerTest, TheDefaultLimitIsAMebibyte) {
  serve(commands());
  RawClient client(path_);
  client.negotiate();
  const std::string most(kMaxCommandText - 100, 'x');
  auto answer = client.ask(R"({"execute": "echo", "arguments": {"t": ")" + most + "\"}}\n");
  EXPECT_EQ(answer["return"]["t"], most);
  error_of(client, R"({"execute": "echo", "arguments": {"t": ")" + most + most + "\"}}\n");
  EXPECT_TRUE(client.ask(R"({"execute": "echo"})").contains("return"));
}

TEST_F(QmpServerTest, ACommandAtWorkHoldsUpNobodyElse) {
  serve(commands());
  RawClient first(path_);
  first.negotiate();
  RawClient second(path_);
  second.negotiate();
  first.send(R"({"execute": "hold"}{"execute": "echo", "id": 2})");
  while (loop_.call([&] { return held_.empty(); }))
    std::this_thread::yield();
  EXPECT_TRUE(second.ask(R"({"execute": "echo"})").contains("return"));
  std::thread([&] { held_[0](json("late")); }).join();
  EXPECT_EQ(first.receive()["return"], "late");
  EXPECT_EQ(first.receive()["id"], 2);
}

TEST_F(QmpServerTest, AnAnswerAfterTheClientOrTheServerHasGoneHarmsNobody) {
  serve(commands());
  {
    RawClient client(path_);
    client.negotiate();
    client.send(R"({"execute": "hold"}{"execute": "hold"})");
    while (loop_.call([&] { return held_.empty(); }))
      std::this_thread::yield();
  }
  held_[0](json("to nobody"));
  RawClient other(path_);
  other.negotiate();
  other.send(R"({"execute": "hold"})");
  while (loop_.call([&] { return held_.size() < 2; }))
    std::this_thread::yield();
  loop_.call([&] { server_.reset(); });
  loop_.call([] {});
  for (auto& reply : held_)
    reply(json("too late"));
  EXPECT_EQ(other.receive(), nullptr);
}

TEST_F(QmpServerTest, EventsGoToEveryClientThatHasNegotiated) {
  serve(commands());
  RawClient first(path_), second(path_), shy(path_);
  first.negotiate();
  second.negotiate();
  EXPECT_TRUE(shy.receive().contains("QMP"));
  std::thread([&] { server_->emit("STOP"); }).join();
  server_->emit("MIGRATION", {{"status", "setup"}});
  for (auto* client : {&first, &second}) {
    auto stop = client->receive();
    EXPECT_EQ(stop["event"], "STOP");
    EXPECT_GT(stop["timestamp"]["seconds"], 0);
    EXPECT_LT(stop["timestamp"]["microseconds"], 1'000'000);
    EXPECT_EQ(client->receive()["data"], (json{{"status", "setup"}}));
  }
  EXPECT_TRUE(shy.ask(R"({"execute": "qmp_capabilities"})").contains("return"));
}

TEST_F(QmpServerTest, AClientThatDoesNotReadIsDroppedAndTheOthersStay) {
  serve(commands(), {.limits = {.max_text = 1000, .max_unread = 200'000}});
  RawClient lazy(path_);
  lazy.negotiate();
  RawClient eager(path_);
  eager.negotiate();
  // Far more than the bound and any socket buffer together hold.
  const std::string ballast(50'000, 'b');
  for (int i = 0; i < 200; ++i) {
    server_->emit("NOISE", {{"ballast", ballast}});
    EXPECT_EQ(eager.receive()["event"], "NOISE");
  }
  int got = 0;
  for (;;) {
    json message;
    try {
      message = lazy.receive();
    } catch (const json::exception&) {
      break;
    }
    if (message.is_null()) break;
    ++got;
  }
  EXPECT_LT(got, 200);
  EXPECT_TRUE(eager.ask(R"({"execute": "echo"})").contains("return"));
}

TEST_F(QmpServerTest, AClientThatOnlyAsksIsPausedAndNotDropped) {
  serve(commands());
  RawClient client(path_);
  client.negotiate();
  const std::string ballast(1000, 'b');
  std::thread sender([&] {
    for (int i = 0; i < 3000; ++i)
      if (!client.send(
              fmt::format(R"({{"execute": "echo", "arguments": {{"b": "{}"}}, "id": {}}})", ballast, i)))
        return;
  });
  for (int i = 0; i < 3000; ++i)
    ASSERT_EQ(client.receive()["id"], i);
  sender.join();
}

TEST_F(QmpServerTest, AClientThatEndsItsSideStillGetsItsAnswers) {
  serve(commands());
  RawClient client(path_);
  client.send(
      R"({"execute": "qmp_capabilities"}{"execute": "elsewhere", "id": 1}{"execute": "echo", "id": 2})");
  client.end();
  EXPECT_TRUE(client.receive().contains("QMP"));
  EXPECT_TRUE(client.receive().contains("return"));
  EXPECT_EQ(client.receive()["id"], 1);
  EXPECT_EQ(client.receive()["id"], 2);
  EXPECT_EQ(client.receive(), nullptr);
}

TEST_F(QmpServerTest, ClientsBeyondTheLimitAreTurnedAway) {
  serve(commands(), {.limits = {}, .max_clients = 2});
  RawClient first(path_), second(path_);
  first.negotiate();
  second.negotiate();
  RawClient third(path_);
  EXPECT_EQ(third.receive(), nullptr);
  EXPECT_TRUE(first.ask(R"({"execute": "echo"})").contains("return"));
}

TEST_F(QmpServerTest, QueryCommandsListsEveryCommandOnce) {
  serve(commands());
  RawClient client(path_);
  client.negotiate();
  std::multiset<std::string> names;
  const auto answer = client.ask(R"({"execute": "query-commands"})");
  for (const auto& entry : answer["return"])
    names.insert(entry["name"]);
  for (const char* name : {"echo", "hold", "qmp_capabilities", "query-commands", "query-version"})
    EXPECT_EQ(names.count(name), 1u) << name;
  EXPECT_TRUE(client.ask(R"({"execute": "query-version"})")["return"].contains("qemu"));
  error_of(client, R"({"execute": "query-version", "arguments": {"x": 1}})");
}

// Whatever comes in, the server lives and the next proper client is served.
TEST_F(QmpServerTest, RandomBytesNeitherCrashItNorStopIt) {
  auto table = commands();
  serve(std::move(table));
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::vector<std::string> pieces = {"{",
                                           "}",
                                           "[",
                                           "]",
                                           "\"",
                                           "\\",
                                           ":",
                                           ",",
                                           "\n",
                                           "\"execute\"",
                                           "\"echo\"",
                                           "\"arguments\"",
                                           "\"id\"",
                                           "null",
                                           "1e99999",
                                           "\xff",
                                           std::string(1, '\0'),
                                           "\"hold\"",
                                           "{\"execute\": \"echo\"}\n",
                                           "\\ud800",
                                           "{\"execute\": \"throw\"}",
                                           "{\"execute\":\"refuse\",\"id\":[[]]}"};
  for (int round = 0; round < 60; ++round) {
    RawClient client(path_);
    client.negotiate();
    std::string text;
    for (unsigned i = 0; i < 1 + random() % 200; ++i)
      text += pieces[random() % pieces.size()];
    client.send(text);
    if (random() % 2) {
      client.end();
      // A held command is never answered; all others end, and so does the connection.
      if (text.find("hold") == std::string::npos)
        while (!client.receive().is_null()) {
        }
    }
  }
  RawClient client(path_);
  client.negotiate();
  EXPECT_TRUE(client.ask(R"({"execute": "echo"})").contains("return"));
}

}  // namespace
}  // namespace handover::control
