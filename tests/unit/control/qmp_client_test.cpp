#include "control/qmp_client.h"

#include <gmock/gmock.h>

#include <thread>

#include "unit/control/qmp_harness.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class QmpClientTest : public ServerFixture {
 protected:
  void serve_samples() {
    CommandTable table;
    table.add_quick("echo", [](const json& arguments) -> Result<json> { return arguments; });
    table.add_quick("refuse", [](const json&) -> Result<json> { return fail(Errc::io, "disk on fire"); });
    table.add_quick("noisy", [this](const json&) -> Result<json> {
      for (int i = 0; i < 3; ++i)
        server_->emit("NOISE", {{"n", i}});
      return json::object();
    });
    table.add("hold", [this](const json&, const Reply& reply) { held_.push_back(reply); });
    serve(std::move(table));
  }
  QmpClient connected() {
    auto client = QmpClient::connect(path_, {});
    if (!client) throw std::runtime_error(client.error().to_string());
    return std::move(*client);
  }
  Deadline in(int seconds) { return std::chrono::steady_clock::now() + std::chrono::seconds(seconds); }

  std::vector<Reply> held_;
};

TEST_F(QmpClientTest, ExecutesAndTellsAnswersFromBrokenConnections) {
  serve_samples();
  auto client = connected();
  auto answer = client.execute("echo", {{"a", 1}});
  ASSERT_TRUE(answer) << answer.error().to_string();
  EXPECT_EQ(*answer, (json{{"a", 1}}));

  answer = client.execute("refuse");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().to_string(), "disk on fire");
  EXPECT_TRUE(is_answer(answer.error()));

  answer = client.execute("fly");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Errc::unsupported);

  loop_.call([&] { server_.reset(); });
  answer = client.execute("echo");
  ASSERT_FALSE(answer);
  EXPECT_FALSE(is_answer(answer.error()));
  EXPECT_EQ(answer.error().code(), Errc::closed);
}

TEST_F(QmpClientTest, EventsAreKeptUntilTheyAreTaken) {
  serve_samples();
  auto client = connected();
  ASSERT_TRUE(client.execute("noisy"));
  ASSERT_TRUE(client.execute("echo"));
  for (int i = 0; i < 3; ++i) {
    auto event = client.next_event({}, in(60));
    ASSERT_TRUE(event && *event);
    EXPECT_EQ((*event)->name, "NOISE");
    EXPECT_EQ((*event)->data["n"], i);
    EXPECT_GT((*event)->microseconds, 1'000'000'000'000'000);
  }
  auto none = client.next_event({}, std::chrono::steady_clock::now());
  ASSERT_TRUE(none);
  EXPECT_FALSE(*none);
  std::thread later([&] { server_->emit("LATE"); });
  auto event = client.next_event({}, in(60));
  ASSERT_TRUE(event && *event);
  EXPECT_EQ((*event)->name, "LATE");
  later.join();
}

TEST_F(QmpClientTest, ACancelledCallEndsAtOnceAndItsLateAnswerIsPassedOver) {
  serve_samples();
  auto client = connected();
  CancelSource cancel;
  std::thread canceller([&] {
    while (loop_.call([&] { return held_.empty(); }))
      std::this_thread::yield();
    cancel.cancel("enough");
  });
  auto answer = client.execute("hold", json::object(), cancel.token());
  canceller.join();
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Errc::cancelled);
  held_[0](json("late"));
  answer = client.execute("echo", {{"b", 2}});
  ASSERT_TRUE(answer) << answer.error().to_string();
  EXPECT_EQ(*answer, (json{{"b", 2}}));
}

TEST_F(QmpClientTest, ConnectingToNothingSaysWhatIsMissing) {
  auto client = QmpClient::connect(scratch_.file("nothing.sock"), {});
  ASSERT_FALSE(client);
  EXPECT_THAT(client.error().to_string(), HasSubstr("nothing.sock"));
  EXPECT_EQ(client.error().code(), Errc::not_found);
  client = QmpClient::connect(std::string(300, 'p'), {});
  ASSERT_FALSE(client);
  EXPECT_THAT(client.error().to_string(), HasSubstr("300 bytes"));
}

// Servers that do not keep to the protocol.
TEST_F(QmpClientTest, HostileServersEndInAnError) {
  for (const char* speech :
       {"", "nonsense\n", "[]\n", "{}\n", "{\"QMP\": 1}\n", "{\"QMP\": 1}\n{\"return\": 1, \"id\": 1}\n{\"x",
        "{\"QMP\": 1}\n{\"id\": 1}\n", "{\"QMP\": 1}\n{\"error\": 5, \"id\": 1}\n",
        "{\"QMP\": 1}\n{\"error\": {}, \"id\": 1}\n", "{\"QMP\": 1}\n{\"event\": 5, \"id\": 1}\n",
        "{\"QMP\": 1}\n\"\xff\xff\n"}) {
    const auto path = scratch_.file("hostile.sock");
    auto listening = SocketPath::listen(path);
    ASSERT_TRUE(listening);
    std::thread server([&] {
      const auto own = listening->duplicate();
      ASSERT_TRUE(wait_fd(own.get(), POLLIN, {}));
      UniqueFd one(::accept(own.get(), nullptr, nullptr));
      ASSERT_EQ(::send(one.get(), speech, std::strlen(speech), MSG_NOSIGNAL),
                static_cast<ssize_t>(std::strlen(speech)));
      ::shutdown(one.get(), SHUT_WR);
      char waste[256];
      while (::recv(one.get(), waste, sizeof waste, 0) > 0) {
      }
    });
    {
      auto client = QmpClient::connect(path, {}, in(60));
      const bool served = client && client->execute("echo", json::object(), {}, in(60));
      EXPECT_FALSE(served) << speech;
    }
    server.join();
  }
}

}  // namespace
}  // namespace handover::control
