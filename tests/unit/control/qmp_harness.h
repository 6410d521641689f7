#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "control/qmp_server.h"
#include "control/socket_path.h"
#include "handover/base/cancel.h"
#include "handover/base/event_loop.h"
#include "handover/base/unique_fd.h"

namespace handover::control {

/// A directory of its own that goes with it.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    auto pattern = (std::filesystem::temp_directory_path() / "qmp-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// A client that writes what it is told and reads line by line, without manners.
class RawClient {
 public:
  explicit RawClient(const std::string& path) {
    const auto address = socket_address(path);
    fd_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto* generic = reinterpret_cast<const sockaddr*>(&*address);
    connected_ = ::connect(fd_.get(), generic, sizeof *address) == 0;
  }
  bool connected() const { return connected_; }
  int fd() const { return fd_.get(); }

  bool send(std::string_view text) {
    while (!text.empty()) {
      const auto sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  void end() { ::shutdown(fd_.get(), SHUT_WR); }

  /// The next message; null at the end of the connection.
  nlohmann::json receive() {
    for (;;) {
      if (const auto end = input_.find('\n'); end != std::string::npos) {
        auto message = nlohmann::json::parse(input_.substr(0, end));
        input_.erase(0, end + 1);
        return message;
      }
      char part[4096];
      pollfd one{fd_.get(), POLLIN, 0};
      if (::poll(&one, 1, 60'000) != 1) throw std::runtime_error("no answer within a minute");
      const auto count = ::recv(fd_.get(), part, sizeof part, 0);
      if (count <= 0) return nullptr;
      input_.append(part, static_cast<std::size_t>(count));
    }
  }
  nlohmann::json ask(std::string_view text) {
    if (!send(text)) return nullptr;
    return receive();
  }
  /// Takes the greeting and negotiates.
  void negotiate() {
    receive();
    EXPECT_EQ(ask("{\"execute\": \"qmp_capabilities\"}\n"), nlohmann::json::parse(R"({"return": {}})"));
  }

 private:
  UniqueFd fd_;
  bool connected_ = false;
  std::string input_;
};

/// A QMP server on an event loop with a thread of its own.
class ServerFixture : public testing::Test {
 protected:
  void serve(CommandTable commands, QmpServer::Options options = {}) {
    loop_.start_thread();
    loop_.call([&] {
      auto made = QmpServer::listen(loop_, path_, std::move(commands), options);
      ASSERT_TRUE(made) << made.error().to_string();
      server_ = std::move(*made);
    });
  }
  void TearDown() override {
    if (server_) loop_.call([&] { server_.reset(); });
  }

  ScratchDirectory scratch_;
  std::string path_ = scratch_.file("qmp.sock");
  EventLoop loop_{"qmp-test"};
  std::unique_ptr<QmpServer> server_;
};

}  // namespace handover::control
